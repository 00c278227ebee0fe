// Many address spaces, each with tables of its own: data and code are the current one's however many
// there are, and every TLBI form reaches a space that is not the current one.

    .include "common.inc"
    .arch armv8.6-a
    .include "mmu.inc"

    .equ SPACES, 40
    .equ TABLES, 4 * 4096       // of a space: levels 1 to 3, another level 3
    .equ DATA, PAGES            // level3[0]: the space's data
    .equ CODE, PAGES + 0x1000   // level3[1]: a function that gives the space's number
    .equ SHARED, PAGES + 0x2000 // level3[2]: global
    .equ BLOCK, PAGES + 0x200000 // level2[1]: 2 MiB

    // To the space of number x0. Changes x1, x2.
    .macro enter
    bl tables
    orr x1, x1, x0, lsl #48
    msr ttbr0_el1, x1
    isb
    .endm

    // Entry \n of table \table (0 to 3) of space x0 becomes x3.
    .macro entry table, n
    bl tables
    add x1, x1, #4096 * \table
    str x3, [x1, #8 * \n]
    .endm

main:
    mmu_on
    mov x19, #1
1:  bl build
    add x19, x19, #1
    cmp x19, #SPACES
    b.ls 1b
    dsb ish
    isb
    bl rounds
    bl others
    bl blocks
    bl shared
    bl trees
    say "done\n"
    b poweroff

tables:                         // x0: number; x1: its tables. Changes x2.
    adrp x1, spaces
    mov x2, #TABLES
    madd x1, x0, x2, x1
    ret

    // Pages of space x19: number in x5, data in x4.
contents:                       // x0: page; x4: data; then the code page
    str x4, [x0]
    mov w6, #0x0009
    movk w6, #0xd280, lsl #16   // mov x9, #number
    orr w6, w6, w5, lsl #5
    str w6, [x0, #4096]
    mov w6, #0x03c0
    movk w6, #0xd65f, lsl #16   // ret
    str w6, [x0, #4100]
    add x1, x0, #4096
    dc cvau, x1
    dsb ish
    ic ivau, x1
    dsb ish
    isb
    ret

pages:                          // x0: number; x7: its data page, then code, and both once more
    adrp x7, memory
    add x7, x7, x0, lsl #14
    ret

build:
    mov x18, x30
    mov x0, x19
    bl pages
    mov x0, x7
    mov x5, x19
    add x4, x19, x19, lsl #8
    bl contents
    add x0, x7, #8192
    add x5, x19, #1024
    add x4, x4, #0x10000
    bl contents
    mov x0, x19
    adrp x8, level1
    ldr x3, [x8]
    entry 0, 0
    ldr x3, [x8, #8]
    entry 0, 1
    bl tables
    add x3, x1, #4096
    orr x3, x3, #3
    entry 0, 2
    add x3, x1, #8192
    orr x3, x3, #3
    entry 1, 0
    ldr x8, =NORMAL + NOT_GLOBAL
    orr x3, x7, x8
    entry 2, 0
    add x3, x7, #4096
    orr x3, x3, x8
    entry 2, 1
    adrp x3, common
    ldr x8, =NORMAL
    orr x3, x3, x8
    entry 2, 2
    ldr x3, =0x44000000 | NORMAL & ~2 | NOT_GLOBAL
    entry 1, 1
    br x18

    // x9 = what space x0 sees: data and code.
see:
    mov x17, x30
    enter
    ldr x10, =CODE
    blr x10
    ldr x10, =DATA
    ldr x10, [x10]
    add x9, x9, x10, lsl #16
    br x17

rounds:
    mov x21, x30
    mov x22, #0
    mov x23, #3
1:  mov x19, #1
2:  mov x0, x19
    bl see
    add x22, x22, x22, lsl #5
    add x22, x22, x9
    add x19, x19, #1
    cmp x19, #SPACES
    b.ls 2b
    subs x23, x23, #1
    b.ne 1b
    show "all spaces, three times", x22
    // Near ones in turn, from wherever.
    mov x22, #0
    mov x23, #1000
1:  and x0, x23, #3
    add x0, x0, #1
    bl see
    add x22, x22, x22, lsl #5
    add x22, x22, x9
    subs x23, x23, #1
    b.ne 1b
    show "four spaces in turn", x22
    br x21

    // Space 1 is seen, then from space 2 its pages are exchanged and it is told by the form under test.
    .macro other name, operand, address=DATA
    mov x0, #1
    bl see
    mov x20, x9
    mov x0, #2
    bl see
    eor x24, x24, #8192
    mov x0, #1
    bl pages
    add x7, x7, x24
    ldr x8, =NORMAL + NOT_GLOBAL
    orr x3, x7, x8
    entry 2, 0
    add x3, x7, #4096
    orr x3, x3, x8
    entry 2, 1
    dsb ishst
    .ifc \operand,none
    tlbi \name
    .else
    mov x11, #1 << 48           // the ASID's place
    ldr x0, =\address >> 12
    .ifc \operand,asid
    mov x0, #0
    .endif
    orr x0, x0, x11
    .ifc \operand,range
    mov x1, #1
    orr x0, x0, x1, lsl #46     // 4 KiB granule, two pages
    .endif
    tlbi \name, x0
    .ifc \operand,page
    add x0, x0, #1
    tlbi \name, x0
    .endif
    .endif
    dsb ish
    isb
    mov x0, #1
    bl see
    eor x9, x9, x20
    show "\name", x9
    .endm

    .macro domains name, operand
    other \name, \operand
    other \name\()is, \operand
    other \name\()os, \operand
    .endm

others:
    mov x21, x30
    mov x24, #0
    domains vmalle1, none
    domains vae1, page
    domains vaae1, page
    domains vale1, page
    domains vaale1, page
    domains rvae1, range
    domains rvaae1, range
    domains rvale1, range
    domains rvaale1, range
    domains aside1, asid
    br x21

    .ltorg

    // A block of space 1 goes elsewhere; it is told by an address in its middle.
blocks:
    mov x21, x30
    mov x8, #0x44000000
    mov x9, #0xb10c
    str x9, [x8, #8]
    mov x9, #0x7b10
    add x8, x8, #0x200000
    str x9, [x8, #8]
    mov x0, #1
    enter
    ldr x10, =BLOCK
    ldr x20, [x10, #8]
    mov x0, #2
    enter
    mov x0, #1
    ldr x3, =0x44200000 | NORMAL & ~2 | NOT_GLOBAL
    entry 1, 1
    dsb ishst
    ldr x0, =(BLOCK + 0x123000) >> 12 | 1 << 48
    tlbi vale1is, x0
    dsb ish
    isb
    mov x0, #1
    enter
    ldr x10, =BLOCK
    ldr x9, [x10, #8]
    show "block before", x20
    show "block after", x9
    br x21

    // A global page, seen in many spaces.
shared:
    mov x21, x30
    mov x22, #0
    mov x23, #2
    adrp x8, common
    mov x9, #0x5
    str x9, [x8]
    mov x9, #0x7
    str x9, [x8, #4096]
1:  mov x19, #1
2:  mov x0, x19
    enter
    ldr x10, =SHARED
    ldr x9, [x10]
    add x22, x22, x22, lsl #5
    add x22, x22, x9
    add x19, x19, #1
    cmp x19, #SPACES
    b.ls 2b
    mov x19, #1
3:  mov x0, x19
    adrp x3, common
    add x3, x3, #4096
    ldr x8, =NORMAL
    orr x3, x3, x8
    entry 2, 2
    add x19, x19, #1
    cmp x19, #SPACES
    b.ls 3b
    dsb ishst
    ldr x0, =SHARED >> 12 | 3 << 48
    tlbi vaae1is, x0
    dsb ish
    isb
    subs x23, x23, #1
    b.ne 1b
    show "global page", x22
    br x21

    // Space 1 gets another level 3 table, in break-before-make order.
trees:
    mov x21, x30
    mov x0, #1
    bl see
    mov x20, x9
    mov x0, #2
    bl see
    mov x0, #1
    mov x3, #0
    entry 1, 0
    dsb ishst
    ldr x0, =DATA >> 12 | 1 << 48
    tlbi vae1is, x0
    add x0, x0, #1
    tlbi vae1is, x0
    dsb ish
    mov x0, #5
    bl pages
    ldr x8, =NORMAL + NOT_GLOBAL
    mov x0, #1
    orr x3, x7, x8
    entry 3, 0
    add x3, x7, #4096
    orr x3, x3, x8
    entry 3, 1
    bl tables
    add x3, x1, #3 * 4096
    orr x3, x3, #3
    entry 1, 0
    dsb ish
    isb
    mov x0, #1
    bl see
    show "old tables", x20
    show "new tables", x9
    br x21

    .ltorg
    .bss
    .balign 16384
spaces:
    .skip (SPACES + 1) * TABLES
memory:
    .skip (SPACES + 1) * 16384
common:
    .skip 8192
