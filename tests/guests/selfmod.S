// Code that changes: in place, through another mapping, within the running page, without a branch.

    .include "common.inc"
    .include "mmu.inc"

    // Makes what was written at x0 visible to instruction fetch.
    .macro sync addr
    dc cvau, \addr
    dsb ish
    ic ivau, \addr
    dsb ish
    isb
    .endm

main:
    mmu_on
    bl plain
    bl alias
    bl near
    bl pair
    bl everywhere
    say "done\n"
    b poweroff

// movz w0, #n; ret, for n from 0 to 4095.
plain:
    mov x21, x30
    adrp x20, code
    mov w0, #0x03c0             // ret
    movk w0, #0xd65f, lsl #16
    str w0, [x20, #4]
    mov x18, #0
    mov x19, #0
1:  mov w0, #0x52800000
    orr w0, w0, w18, lsl #5
    str w0, [x20]
    sync x20
    blr x20
    add x19, x19, x0
    add x18, x18, #1
    cmp x18, #4096
    b.ne 1b
    show "sum, in place", x19
    br x21

// The same, written through a second virtual address of the page.
alias:
    mov x21, x30
    adrp x20, code
    mov x0, #NORMAL
    orr x0, x0, x20
    adrp x1, level3
    str x0, [x1]
    dsb ish
    mov x22, #PAGES
    mov x18, #0
    mov x19, #0
1:  mov w0, #0x52800000
    orr w0, w0, w18, lsl #5
    str w0, [x22]
    sync x22
    blr x20
    add x19, x19, x0
    blr x22
    add x19, x19, x0
    add x18, x18, #1
    cmp x18, #1024
    b.ne 1b
    show "sum, two names", x19
    br x21

// The instruction behind the one that writes, on the same page.
near:
    mov x21, x30
    mov x18, #0
    mov x19, #0
    adr x20, 2f
1:  mov w1, #0x52800000
    orr w1, w1, w18, lsl #5
    str w1, [x20]
    sync x20
2:  mov w0, #0
    add x19, x19, x0
    add x18, x18, #1
    cmp x18, #1024
    b.ne 1b
    show "sum, next instruction", x19
    br x21

// Two functions that rewrite each other's constant, on one page.
pair:
    mov x21, x30
    adrp x20, code
    add x20, x20, #0x800
    adr x0, template
    mov x1, #template_end - template
1:  ldr w2, [x0], #4
    str w2, [x20], #4
    subs x1, x1, #4
    b.ne 1b
    adrp x20, code
    add x20, x20, #0x800
    sync x20
    add x22, x20, #64
    sync x22
    add x22, x20, #second - template
    mov x18, #1000
    mov x19, #0
2:  blr x20
    blr x22
    subs x18, x18, #1
    b.ne 2b
    show "sum, mutual", x19
    br x21

    .balign 64
template:
first:
    mov w0, #1                  // replaced by second
    add x19, x19, x0
    ldr w1, second
    add w1, w1, #1 << 5
    adr x2, second
    str w1, [x2]
    sync x2
    ret
second:
    mov w0, #1                  // replaced by first
    add x19, x19, x0
    ldr w1, first
    add w1, w1, #2 << 5
    and w1, w1, #~(1 << 20)
    adr x2, first
    str w1, [x2]
    sync x2
    ret
template_end:

// Each word of a page becomes code once, then data again.
everywhere:
    mov x21, x30
    adrp x20, code
    add x22, x20, #0xff8
    mov x19, #0
1:  mov w0, #0x52800000
    and x1, x20, #0xfff
    orr w0, w0, w1, lsl #5
    str w0, [x20]
    mov w0, #0x03c0
    movk w0, #0xd65f, lsl #16
    str w0, [x20, #4]
    sync x20
    add x2, x20, #4
    sync x2
    blr x20
    add x19, x19, x0
    str xzr, [x20]
    add x20, x20, #4
    cmp x20, x22
    b.ne 1b
    show "sum, whole page", x19
    br x21

    .bss
    .balign 4096
code:
    .skip 4096
