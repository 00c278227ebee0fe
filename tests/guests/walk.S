// Accesses through random translation tables: the part that is always the same. `generated.inc` comes
// from vm-tests' `tables` module: TCR, SCTLR, tables, accesses, and VTCR, HCR where EL2 is the starting
// level.

    .include "common.inc"
    .include "generated.inc"

    .equ PATTERN, 0x50000000
    .equ PATTERN_SIZE, 0x400000

    .balign 2048
vectors:                        // EL1: of stage 1
    .rept 16
    .balign 128
    b fault
    .endr
    .balign 2048
vectors2:                       // EL2: from EL1 under stage 2, or of an AT
    .rept 16
    .balign 128
    b fault2
    .endr

fault:
    mrs x24, esr_el1
    mrs x25, far_el1
    mov x26, #1
    msr elr_el1, x28
    mov x0, #0x3c5
    msr spsr_el1, x0
    eret
    .balign 2048
vectors1:                       // EL1 under EL2: what stage 2 let through
    .rept 16
    .balign 128
    b fault1
    .endr

fault1:
    mrs x24, esr_el1
    mrs x25, far_el1
    mov x26, #1
    hvc #1
fault2:
    mrs x0, esr_el2
    lsr x1, x0, #26
    cmp x1, #0x16               // HVC: the access went through, or EL1 has looked
    b.eq 1f
    mov x24, x0
    mrs x25, far_el2
    mrs x23, hpfar_el2
    mov x26, #1
1:  msr elr_el2, x28
    mov x0, #0x3c9
    msr spsr_el2, x0
    eret

main:
    // What reads show: each word its own address, and a return in every line.
    ldr x0, =PATTERN
    ldr x1, =PATTERN + PATTERN_SIZE
    mov w2, #0x03c0
    movk w2, #0xd65f, lsl #16
1:  str x0, [x0]
    and x3, x0, #0x38
    cmp x3, #0x38
    b.ne 2f
    str w2, [x0]
2:  add x0, x0, #8
    cmp x0, x1
    b.ne 1b
    ic ialluis
    dsb sy
    isb
    ldr x0, =0xbb44ff0c04ff00ee // MAIR: of every kind
    msr mair_el1, x0
    ldr x0, =TCR
    msr tcr_el1, x0
    adr x0, vectors
    msr vbar_el1, x0
    mrs x0, currentel
    cmp x0, #8
    b.eq at_el2
    // The program's own half: devices and RAM as they are.
    adrp x0, level1
    mov x1, #0x40d              // block, AF, attribute 3
    movk x1, #0x60, lsl #48
    str x1, [x0]
    mov x1, #0x709              // attribute 2
    movk x1, #0x4000, lsl #16
    str x1, [x0, #8]
    msr ttbr0_el1, x0
    ldr x0, =first_root
    msr ttbr1_el1, x0
    isb
    tlbi vmalle1
    dsb sy
    mrs x1, sctlr_el1
    ldr x2, =0x1005 + SCTLR     // M, C, I
    orr x1, x1, x2
    msr sctlr_el1, x1
    isb
    b go
    .ifdef HCR
at_el2:
    adr x0, vectors2
    msr vbar_el2, x0
    adr x0, vectors1
    msr vbar_el1, x0
    ldr x0, =first_root
    msr ttbr0_el1, x0
    ldr x0, =second_root
    msr vttbr_el2, x0
    ldr x0, =VTCR
    msr vtcr_el2, x0
    ldr x0, =HCR
    msr hcr_el2, x0
    mov x1, #0x30d00000 & 0xffff0000
    movk x1, #0x0800
    mov x2, #0
    ldr x2, =SCTLR
    orr x1, x1, x2
    orr x1, x1, #1
    msr sctlr_el1, x1
    isb
    tlbi alle1
    dsb sy
    isb
    .else
at_el2:
    b poweroff
    .endif
go:
    ldr x20, =accesses
next:
    ldr x21, [x20], #8
    cmn x21, #1
    b.eq end
    ldr x22, [x20], #8
    mov x23, #0
    mov x24, #0
    mov x25, #0
    mov x26, #0
    adr x28, 9f
    mrs x0, currentel
    cmp x0, #8
    b.ne 1f
    cmp x21, #8
    b.lo 1f
    // The first stage off, at EL1.
    mrs x19, sctlr_el1
    bic x0, x19, #1
    msr sctlr_el1, x0
    adr x0, 1f
    msr elr_el2, x0
    mov x0, #0x3c5
    msr spsr_el2, x0
    eret
1:  adr x0, kinds
    add x0, x0, x21, lsl #3
    br x0
kinds:
    b at_0
    nop
    b at_1
    nop
    b at_2
    nop
    b at_3
    nop
    b at_4
    nop
    b at_5
    nop
    b at_6
    nop
    b at_7
    nop
    b load
    nop
    b store
    nop
    b load_user
    nop
    b store_user
    nop
    b branch
at_0:
    at s1e1r, x22
    b par
at_1:
    at s1e1w, x22
    b par
at_2:
    at s1e0r, x22
    b par
at_3:
    at s1e0w, x22
    b par
at_4:
    .ifdef HCR
    at s12e1r, x22
    b par
at_5:
    at s12e1w, x22
    b par
at_6:
    at s12e0r, x22
    b par
at_7:
    at s12e0w, x22
    b par
    .else
at_5:
at_6:
at_7:
    .endif
par:
    isb
    mrs x24, par_el1
    b 9f
load:
    ldr x24, [x22]
    b accessed
store:
    ldr x24, =0x123456789abcdef0
    str x24, [x22]
    b accessed
load_user:
    ldtr x24, [x22]
    b accessed
store_user:
    ldr x24, =0x123456789abcdef0
    sttr x24, [x22]
    b accessed
branch:
    adr x30, accessed
    blr x22
accessed:
    .ifdef HCR
    mov x27, x24
    hvc #1                      // to x28 at EL2
    .endif
9:
    .ifdef HCR
    cmp x21, #8
    b.lo 1f
    msr sctlr_el1, x19
    isb
    cbnz x26, 1f
    mov x24, x27
1:
    .endif
    mov x0, x21
    bl putshort
    mov x0, x22
    bl puthexs
    mov x0, x24
    bl puthexs
    cbz x26, 1f
    mov x0, x25
    bl puthexs
    mov x0, x23
    bl puthexs
1:  mov w0, #'\n'
    mov x1, #UART
    strb w0, [x1]
    b next
end:
    ldr x20, =tables            // what the walks wrote
    ldr x21, =tables_end
1:  ldr x22, [x20], #8
    cbz x22, 2f
    mov x0, x20
    bl putshort
    mov x0, x22
    bl puthexs
    mov w0, #'\n'
    mov x1, #UART
    strb w0, [x1]
2:  cmp x20, x21
    b.ne 1b
    mrs x0, currentel
    cmp x0, #8
    b.ne poweroff
    mov w0, #0x0008
    movk w0, #0x8400, lsl #16
    smc #0
    b .

puthexs:
    mov x3, #60
    mov x1, #UART
    mov w2, #' '
    strb w2, [x1]
    b 1f
putshort:
    mov x3, #4
    mov x1, #UART
1:  lsr x2, x0, x3
    and x2, x2, #15
    cmp x2, #10
    add x4, x2, #'0'
    add x2, x2, #'a' - 10
    csel x2, x4, x2, lo
    strb w2, [x1]
    subs x3, x3, #4
    b.pl 1b
    ret
    .ltorg

    .bss
    .balign 4096
level1:
    .skip 4096
