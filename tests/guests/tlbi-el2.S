    .include "tlbi.inc"
    .equ HCR, 0x80000001        // RW, VM

    .balign 2048
vectors:
    .rept 16
    .balign 128
    b taken
    .endr
taken:
    msr elr_el2, x28
    mov x0, #0x3c9
    msr spsr_el2, x0
    eret

main:
    adr x0, vectors
    msr vbar_el2, x0
    adrp x0, data
    str xzr, [x0]
    mov x1, #1
    str x1, [x0, #4096]
    mov x20, #1
    mov x24, #0
    // EL2's own regime: the tables of mmu.inc with EL2's registers.
    adrp x0, level1
    mov x1, #0x445              // block, AF, attribute 1, the bit that is RES1
    movk x1, #0x40, lsl #48
    str x1, [x0]
    mov x1, #0x741
    movk x1, #0x4000, lsl #16
    str x1, [x0, #8]
    adrp x1, level2
    orr x1, x1, #3
    str x1, [x0, #16]
    adrp x2, level2
    adrp x1, level3
    orr x1, x1, #3
    str x1, [x2]
    msr ttbr0_el2, x0
    mov x1, #0x00ff
    msr mair_el2, x1
    ldr x1, =0x80823519         // 39 bits, 40-bit outputs
    msr tcr_el2, x1
    isb
    tlbi alle2
    dsb ish
    mrs x1, sctlr_el2
    orr x1, x1, #1
    msr sctlr_el2, x1
    isb
    adrp x21, level3
    mov x22, #PAGES
    ldr x23, =NORMAL | USER
    domains alle2
    domains vae2, page
    domains vale2, page
    domains rvae2, range
    domains rvale2, range
    // Stage 2 of EL1, whose own stage is off.
    adrp x0, second1
    ldr x1, =0x400007fd         // the program's gigabyte as it is
    str x1, [x0, #8]
    adrp x1, second2
    orr x1, x1, #3
    str x1, [x0, #16]
    adrp x2, second2
    adrp x1, second3
    orr x1, x1, #3
    str x1, [x2]
    msr vttbr_el2, x0
    ldr x1, =0x80023559         // 39 bits, start at level 1, 40-bit outputs
    msr vtcr_el2, x1
    ldr x1, =HCR
    msr hcr_el2, x1
    isb
    tlbi vmalls12e1
    dsb ish
    isb
    adrp x21, second3
    ldr x23, =0x7ff
    .set EL1_LOOKS, 1
    domains alle1
    domains vmalls12e1
    .set AFTER, 1
    domains ipas2e1, page
    domains ipas2le1, page
    domains ripas2e1, range
    domains ripas2le1, range
    say "done\n"
    mov w0, #0x0008
    movk w0, #0x8400, lsl #16
    smc #0
    b .

look:
    ldr x9, [x22]
    ret
look1:                          // the same at EL1
    adr x28, 2f
    adr x0, 1f
    msr elr_el2, x0
    mov x0, #0x3c5
    msr spsr_el2, x0
    eret
1:  ldr x9, [x22]
    hvc #1
2:  ret
    .ltorg
    .bss
    .balign 4096
data:
    .skip 8192
second1:
    .skip 4096
second2:
    .skip 4096
second3:
    .skip 4096
