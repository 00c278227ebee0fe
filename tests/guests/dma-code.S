// A device writes over code that has run: fw_cfg's DMA puts its signature there, which is no instruction.

    .include "common.inc"
    .include "mmu.inc"

    .equ FWCFG, 0x09020000

main:
    mmu_on
    adr x0, vectors
    msr vbar_el1, x0
    mov x19, #0
    mov x18, #100
1:  adrp x20, code
    mov w0, #0x03c0             // movz w0, #1; ret
    movk w0, #0xd65f, lsl #16
    str w0, [x20, #4]
    mov w0, #0x0020
    movk w0, #0x5280, lsl #16
    str w0, [x20]
    dc cvau, x20
    dsb ish
    ic ivau, x20
    dsb ish
    isb
    mov x9, #0
    blr x20
    add x19, x19, x0
    blr x20
    add x19, x19, x0
    bl transfer
    dsb ish
    ic ivau, x20
    dsb ish
    isb
    mov x0, #0
    blr x20
    add x19, x19, x0
    add x19, x19, x9, lsl #32
    subs x18, x18, #1
    b.ne 1b
    ldr w9, [x20]
    show "word", x9
    show "results and exceptions", x19
    say "done\n"
    b poweroff

transfer:                       // item 0, 4 bytes, to x20
    adrp x1, request
    mov w2, #0x0a               // select, read
    rev w2, w2
    str w2, [x1]
    mov w2, #4
    rev w2, w2
    str w2, [x1, #4]
    rev x2, x20
    str x2, [x1, #8]
    dsb sy
    mov x3, #FWCFG
    rev x2, x1
    str x2, [x3, #16]
2:  ldr w2, [x1]
    rev w2, w2
    tst w2, #~1
    b.ne 2b
    ret

    .balign 2048
vectors:
    .skip 0x200
    mrs x10, elr_el1
    add x10, x10, #4
    msr elr_el1, x10
    add x9, x9, #1
    eret
    .balign 2048

    .bss
    .balign 4096
request:
    .skip 4096
code:
    .skip 4096
