// Four CPUs, started through PSCI, add to the same counters: exclusives, LSE, both on one counter,
// 128-bit pairs, and a plain counter under a lock.

    .arch armv8.2-a
    .include "common.inc"
    .include "mmu.inc"

    .equ ROUNDS, 20000

    .macro psci function, a=xzr, b=xzr, c=xzr
    mov x1, \a
    mov x2, \b
    mov x3, \c
    ldr x0, =\function
    hvc #0
    .endm

main:
    mmu_on
    psci 0x84000000
    mov x9, x0
    show "PSCI version", x9
    mov x19, #1
1:  adr x2, secondary
    mov x3, x19
    mov x1, x19
    ldr x0, =0xc4000003
    hvc #0
    mov x9, x0
    show "CPU_ON", x9
    add x19, x19, #1
    cmp x19, #4
    b.ne 1b
    adr x2, secondary
    mov x1, #0
    ldr x0, =0xc4000003
    hvc #0
    mov x9, x0
    show "itself", x9
    adr x2, secondary
    mov x1, #0x77
    ldr x0, =0xc4000003
    hvc #0
    mov x9, x0
    show "no such CPU", x9
    mov x19, #0
    bl work
    adrp x20, done
3:  ldar x0, [x20]
    cmp x0, #4
    b.ne 3b
    bl print
    bl wait_off
    say "done\n"
    b poweroff

secondary:                      // x0: its number
    mov x19, x0
    adrp x1, stack
    add x1, x1, x0, lsl #12
    mov sp, x1
    adrp x0, level1
    mmu_cpu
    bl work
    ldr x0, =0x84000002         // CPU_OFF
    hvc #0
    b .

work:                           // x19: the CPU's number
    adrp x20, counters
    ldr x18, =ROUNDS
1:  add x10, x20, #0
2:  ldxr x0, [x10]
    add x0, x0, #1
    stxr w1, x0, [x10]
    cbnz w1, 2b
    add x10, x20, #64
    mov x0, #1
    ldadd x0, x1, [x10]
    add x10, x20, #128
    tbnz x19, #0, 4f
3:  ldaxr w0, [x10]
    add w0, w0, #1
    stlxr w1, w0, [x10]
    cbnz w1, 3b
    b 5f
4:  ldr w0, [x10]
    add w1, w0, #1
    mov w2, w0
    casal w0, w1, [x10]
    cmp w0, w2
    b.ne 4b
5:  add x10, x20, #192
6:  ldxp x0, x1, [x10]
    adds x0, x0, #-1
    adc x1, x1, xzr
    stxp w2, x0, x1, [x10]
    cbnz w2, 6b
    add x10, x20, #256
    tbnz x19, #1, 8f
7:  ldaxrb w0, [x10]
    add w0, w0, #1
    stlxrb w1, w0, [x10]
    cbnz w1, 7b
    b 9f
8:  mov w0, #1
    ldaddalb w0, w1, [x10]
9:  add x10, x20, #320          // lock and counter
    mov w0, #1
10: swpa w0, w1, [x10]
    cbnz w1, 10b
    ldr x1, [x10, #8]
    add x1, x1, #1
    str x1, [x10, #8]
    stlr wzr, [x10]
    add x10, x20, #384
    mov x0, #1
    lsl x0, x0, x18
    ldeor x0, x1, [x10]
    add x10, x20, #448
    add x0, x18, x19
    ldsmax x0, x1, [x10]
    subs x18, x18, #1
    b.ne 1b
    adrp x0, done
    mov x1, #1
    staddl x1, [x0]
    ret

print:
    mov x21, x30
    adrp x20, counters
    ldr x9, [x20]
    show "exclusive", x9
    ldr x9, [x20, #64]
    show "ldadd", x9
    ldr x9, [x20, #128]
    show "exclusive and cas", x9
    ldr x9, [x20, #192]
    show "pair, low", x9
    ldr x9, [x20, #200]
    show "pair, high", x9
    ldr x9, [x20, #256]
    show "byte", x9
    ldr x9, [x20, #328]
    show "under a lock", x9
    ldr x9, [x20, #384]
    show "ldeor", x9
    ldr x9, [x20, #448]
    show "ldsmax", x9
    br x21

wait_off:                       // until AFFINITY_INFO says off for the other three
    mov x21, x30
    mov x19, #1
1:  mov x1, x19
    mov x2, #0
    ldr x0, =0xc4000004
    hvc #0
    cmp x0, #1
    b.ne 1b
    add x19, x19, #1
    cmp x19, #4
    b.ne 1b
    say "the others are off\n"
    br x21

    .ltorg
    .bss
    .balign 4096
counters:
    .skip 4096
done:
    .skip 4096
stack:
    .skip 4096 * 4
