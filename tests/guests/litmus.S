// Two CPUs and the memory model: message passing, store buffering, load buffering, TLB maintenance that is
// complete at the DSB, exclusives against LSE atomics. What is printed counts outcomes that must not be.

    .arch armv8.2-a
    .include "common.inc"
    .include "mmu.inc"

    .equ ROUNDS, 50000
    .equ MAPS, 2000

    // Both CPUs meet: x28 = rounds so far, x19 = number of the CPU. Changes x0 to x2.
    .macro meet
    adrp x0, gate
    add x28, x28, #2
    mov x1, #1
    ldaddal x1, x2, [x0]
    b 9004f
9003:
    yield                       // the other one may be waiting for a CPU of the host
9004:
    ldar x1, [x0]
    cmp x1, x28
    b.lo 9003b
    .endm

main:
    mmu_on
    adr x0, vectors
    msr vbar_el1, x0
    mov x28, #0
    adr x2, secondary
    mov x1, #1
    mov x3, #1
    ldr x0, =0xc4000003         // CPU_ON
    hvc #0
    mov x19, #0
    bl work
    adrp x20, results
    ldr x9, [x20]
    show "message passing, barriers", x9
    ldr x9, [x20, #8]
    show "message passing, acquire and release", x9
    ldr x9, [x20, #16]
    show "store buffering, barriers", x9
    ldr x9, [x20, #32]
    show "load buffering", x9
    ldr x9, [x20, #40]
    show "accesses after unmapping", x9
    ldr x9, [x20, #48]
    show "old page after remapping", x9
    ldr x9, [x20, #56]
    show "exclusives and LSE", x9
    say "done\n"
    b poweroff

secondary:
    mov x19, x0
    mov x28, #0
    adrp x1, stack2
    add x1, x1, #4096
    mov sp, x1
    adr x0, vectors
    msr vbar_el1, x0
    adrp x0, level1
    mmu_cpu
    bl work
    wfi
    b .

work:
    mov x27, x30
    adrp x20, results
    adrp x21, cells             // x at 0, y at 128
    bl passing
    bl passing_release
    bl buffering
    bl loads
    bl unmapping
    bl remapping
    bl counting
    meet
    br x27

// CPU 0: x = n, y = n. CPU 1: reads y, then x: must not be older than y.
passing:
    meet
    mov x18, #0
    ldr x17, =ROUNDS
    mov x16, #0
    cbnz x19, 2f
1:  add x18, x18, #1
    str x18, [x21]
    dmb ishst
    str x18, [x21, #128]
    cmp x18, x17
    b.ne 1b
    ret
2:  ldr x3, [x21, #128]
    dmb ishld
    ldr x4, [x21]
    cmp x4, x3
    cinc x16, x16, lo
    cmp x3, x17
    b.ne 2b
    str x16, [x20]
    ret

passing_release:
    meet
    mov x18, #0
    ldr x17, =ROUNDS
    add x17, x17, x17
    ldr x18, =ROUNDS
    mov x16, #0
    add x5, x21, #128
    cbnz x19, 2f
1:  add x18, x18, #1
    str x18, [x21]
    stlr x18, [x5]
    cmp x18, x17
    b.ne 1b
    ret
2:  ldar x3, [x5]
    ldr x4, [x21]
    cmp x3, #0
    b.eq 2b
    cmp x4, x3
    cinc x16, x16, lo
    cmp x3, x17
    b.ne 2b
    str x16, [x20, #8]
    ret

// CPU 0: x = n, reads y. CPU 1: y = n, reads x. One must see the other's.
buffering:
    ldr x17, =ROUNDS / 10
    mov x18, #0
    mov x16, #0
    add x5, x21, #256
    add x6, x21, #384
    cbz x19, 1f
    add x6, x21, #256
    add x5, x21, #384
1:  meet
    add x18, x18, #1
    str x18, [x5]
    dmb ish
    ldr x3, [x6]
    lsl x4, x19, #3
    adrp x7, seen
    add x7, x7, x4
    str x3, [x7]
    meet
    cbnz x19, 2f
    adrp x7, seen
    ldp x3, x4, [x7]
    cmp x3, x18
    ccmp x4, x18, #2, lo
    cinc x16, x16, lo
2:  cmp x18, x17
    b.ne 1b
    cbnz x19, 3f
    str x16, [x20, #16]
3:  ret

// CPU 0: reads x, y = what it read. CPU 1: reads y, x = what it read (+ nothing): out of thin air.
loads:
    meet
    ldr x17, =ROUNDS
    mov x16, #0
    add x5, x21, #768
    add x6, x21, #896
    cbz x19, 1f
    add x6, x21, #768
    add x5, x21, #896
1:  ldr x3, [x5]
    str x3, [x6]
    cmp x3, #0
    cinc x16, x16, ne
    subs x17, x17, #1
    b.ne 1b
    cbz x19, 2f
    str x16, [x20, #32]
2:  meet
    ret

// CPU 0 unmaps a page, TLBI, DSB, then says so; CPU 1 reads that, then the page: must fault.
unmapping:
    mov x26, x30
    mov x18, #0
    mov x16, #0
    ldr x17, =MAPS
    mov x22, #PAGES
    adrp x23, level3
    adrp x24, data
    mov x0, #NORMAL
    orr x24, x24, x0
    add x5, x21, #1024
1:  add x18, x18, #1
    cbnz x19, 2f
    str x24, [x23]
    dsb ishst
    isb
    meet
    str xzr, [x23]
    dsb ishst
    lsr x0, x22, #12
    tlbi vae1is, x0
    dsb ish
    stlr x18, [x5]
    b 3f
2:  meet
4:  mov x9, #0                  // faults of this round
    ldar x3, [x5]
    ldr x4, [x22]
    cmp x3, x18
    b.ne 4b
    cmp x9, #0
    cinc x16, x16, eq
3:  meet
    cmp x18, x17
    b.ne 1b
    cbz x19, 5f
    str x16, [x20, #40]
5:  br x26

// The same with another page in its place.
remapping:
    mov x26, x30
    mov x18, #0
    mov x16, #0
    ldr x17, =MAPS
    mov x22, #PAGES
    adrp x23, level3
    adrp x24, data
    mov x1, #1
    str x1, [x24]
    add x25, x24, #4096
    mov x1, #2
    str x1, [x25]
    mov x0, #NORMAL
    orr x24, x24, x0
    orr x25, x25, x0
    add x5, x21, #1152
1:  add x18, x18, #1
    cbnz x19, 2f
    str xzr, [x23]
    dsb ishst
    lsr x0, x22, #12
    tlbi vaae1is, x0
    dsb ish
    str x24, [x23]
    dsb ishst
    isb
    meet
    str xzr, [x23]              // break before make
    dsb ishst
    tlbi vmalle1is
    dsb ish
    str x25, [x23]
    dsb ishst
    stlr x18, [x5]
    b 3f
2:  meet
4:  ldar x3, [x5]
    mov x4, #0
    ldr x4, [x22]
    cmp x3, x18
    b.ne 4b
    cmp x4, #2
    cinc x16, x16, ne
3:  meet
    cmp x18, x17
    b.ne 1b
    cbz x19, 5f
    str x16, [x20, #48]
5:  br x26

// One counter: CPU 0 by exclusives, CPU 1 by LSE; what is lost is printed.
counting:
    ldr x17, =ROUNDS
    add x5, x21, #1280
    meet
1:  cbnz x19, 2f
3:  ldxr x3, [x5]
    add x3, x3, #1
    stxr w4, x3, [x5]
    cbnz w4, 3b
    b 4f
2:  mov x3, #1
    ldadd x3, x4, [x5]
4:  subs x17, x17, #1
    b.ne 1b
    meet
    cbnz x19, 5f
    ldr x3, [x5]
    ldr x4, =2 * ROUNDS
    sub x3, x4, x3
    str x3, [x20, #56]
5:  ret

    .ltorg
    .balign 2048
vectors:                        // any synchronous exception: skip the instruction, count in x9
    .skip 0x200
    mrs x10, elr_el1
    add x10, x10, #4
    msr elr_el1, x10
    add x9, x9, #1
    eret
    .balign 2048

    .bss
    .balign 4096
gate:
    .skip 4096
cells:
    .skip 4096
seen:
    .skip 4096
results:
    .skip 4096
data:
    .skip 8192
stack2:
    .skip 4096
