// Translation tables: faults at every level, permissions, TLB maintenance, address space numbers.

    .include "common.inc"
    .include "mmu.inc"

    .balign 2048
vectors:
    .skip 0x200
    b taken                     // EL1, own stack
    .balign 0x400
    b taken                     // EL0

    .balign 128
taken:
    shows "  esr", esr_el1
    shows "  far", far_el1
    mrs x9, spsr_el1
    mov x0, #0x3c5              // whatever it was: go on at EL1
    msr spsr_el1, x0
    msr elr_el1, x28
    eret

    // Runs an instruction that may fault; x0 is its result. Prints it if it does not fault.
    .macro try name, insn:vararg
    say "\name\n"
    adr x28, 8002f
    mov x0, #0
    \insn
    mov x9, x0
    show "  got", x9
8002:
    .endm

    // The same at EL0.
    .macro try_user name, insn:vararg
    say "\name\n"
    adr x28, 8002f
    adr x0, 8001f
    sub x0, x0, x23             // as EL0 sees the code: page 16 of the window
    add x0, x0, x24
    msr elr_el1, x0
    msr spsr_el1, xzr
    eret
8001:
    \insn
    svc #1
8002:
    .endm

    // Entry \n of the level-3 table becomes the page \to with \bits.
    .macro map n, to, bits
    adrp x0, \to
    ldr x1, =NORMAL + \bits
    orr x0, x0, x1
    adrp x1, level3
    str x0, [x1, #8 * \n]
    dsb ishst
    .endm

    .macro flush
    tlbi vmalle1
    dsb ish
    isb
    .endm

main:
    adr x0, vectors
    msr vbar_el1, x0
    adrp x0, page_a
    mov x1, #0xaaaa
    str x1, [x0]
    adrp x0, page_b
    mov x1, #0xbbbb
    str x1, [x0]
    mmu_on
    mov x20, #PAGES
    say "MMU is on\n"
    bl faults
    bl remap
    bl permissions
    bl spaces
    bl translate
    bl clearing
    say "done\n"
    b poweroff

faults:
    mov x21, x30
    try "level 3", ldr x0, [x20]
    add x22, x20, #0x200000
    try "level 2", ldr x0, [x22]
    mov x22, #0xc0000000
    try "level 1", str x0, [x22]
    mov x22, #(1 << 39)
    try "level 0", ldr x0, [x22]
    mov x22, #-4096
    try "upper half", ldr x0, [x22]
    map 0, page_a, -ACCESSED
    try "access flag", ldr x0, [x20]
    map 0, page_a, 0
    try "mapped", ldr x0, [x20]
    map 1, page_b, 0
    add x22, x20, #0xffc
    try "over the edge of two pages", ldr x0, [x22]
    add x22, x20, #0x1000
    add x22, x22, #0xffc
    try "over the edge into nothing", ldr x0, [x22]
    try "store over that edge", str x0, [x22]
    mov x0, #0
    adrp x1, page_b
    ldr x0, [x1, #0xff8]
    mov x9, x0
    show "half a store", x9
    br x21

remap:
    mov x21, x30
    mov x19, #0
    mov x18, #0
1:  map 0, page_a, 0
    lsr x0, x20, #12
    tlbi vae1, x0
    dsb ish
    isb
    ldr x1, [x20]
    add x19, x19, x1
    map 0, page_b, 0
    lsr x0, x20, #12
    tlbi vaae1is, x0
    dsb ish
    isb
    ldr x1, [x20]
    add x19, x19, x1
    add x18, x18, #1
    cmp x18, #1000
    b.ne 1b
    show "sum of 1000 remaps", x19
    br x21

permissions:
    mov x21, x30
    map 0, page_a, READ_ONLY
    flush
    try "read-only, load", ldr x0, [x20]
    try "read-only, store", str x20, [x20]
    try "read-only, exclusive", stxr w0, x20, [x20]
    try "read-only, cache clean", dc cvac, x20
    map 0, page_a, USER
    flush
    try "user page executed at EL1", blr x20
    // The code itself as a window for EL0, at pages 16 to 31.
    adrp x0, vectors
    mov x23, x0
    add x24, x20, #0x10000
    ldr x1, =NORMAL + USER + READ_ONLY
    orr x0, x0, x1
    adrp x1, level3
    add x1, x1, #8 * 16
    mov x2, #4
1:  str x0, [x1], #8
    add x0, x0, #4096
    subs x2, x2, #1
    b.ne 1b
    map 1, page_b, 0
    flush
    try_user "EL0 reads its page", ldr x0, [x20]
    try_user "EL0 writes its page", str x20, [x20, #8]
    add x22, x20, #0x1000
    try_user "EL0 reads EL1's page", ldr x0, [x22]
    mov x22, #0x40000000
    try_user "EL0 jumps to EL1's code", br x22
    try "unprivileged load, own", ldtr x0, [x20, #8]
    add x22, x20, #0x1000
    try "unprivileged load, EL1's", ldtr x0, [x22]
    br x21

spaces:
    mov x21, x30
    map 2, page_a, NOT_GLOBAL
    flush
    adrp x22, level1
    add x17, x20, #0x2000
    mov x0, #1
    bfi x22, x0, #48, #16
    msr ttbr0_el1, x22
    isb
    ldr x9, [x17]
    show "space 1", x9
    map 2, page_b, NOT_GLOBAL
    mov x0, #2
    bfi x22, x0, #48, #16
    msr ttbr0_el1, x22
    isb
    ldr x9, [x17]
    show "space 2 looks itself", x9
    mov x0, #1
    lsl x0, x0, #48
    tlbi aside1, x0
    dsb ish
    mov x0, #1
    bfi x22, x0, #48, #16
    msr ttbr0_el1, x22
    isb
    ldr x9, [x17]
    show "space 1 after its flush", x9
    br x21

translate:
    mov x21, x30
    map 0, page_a, READ_ONLY
    map 3, page_a, -NORMAL
    flush
    at s1e1r, x20
    isb
    mrs x9, par_el1
    adrp x0, page_a
    and x1, x9, #0xfffff000
    cmp x0, x1
    cset x9, eq
    show "read goes to the page", x9
    at s1e1w, x20
    isb
    shows "write", par_el1
    add x0, x20, #0x3000
    at s1e0r, x0
    isb
    shows "nothing", par_el1
    br x21

    // DC ZVA: clears the 64 bytes that hold the address; a fault names the address itself.
clearing:
    mov x21, x30
    map 0, page_a, USER
    map 1, page_b, READ_ONLY
    map 2, page_b, -NORMAL
    flush
    mov x19, #1                 // once looked up, once by what the TLB holds
1:  mov x0, x20
    mov x1, #-1
2:  str x1, [x0], #8
    tst x0, #0xff
    b.ne 2b
    add x22, x20, #0x7c
    try "cleared from inside", dc zva, x22
    ldr x9, [x20, #0x38]
    show "before", x9
    ldp x9, x10, [x20, #0x40]
    orr x9, x9, x10
    ldp x10, x11, [x20, #0x50]
    orr x9, x9, x10
    orr x9, x9, x11
    ldp x10, x11, [x20, #0x60]
    orr x9, x9, x10
    orr x9, x9, x11
    ldp x10, x11, [x20, #0x70]
    orr x9, x9, x10
    orr x9, x9, x11
    show "the 64 bytes", x9
    ldr x9, [x20, #0x80]
    show "behind", x9
    add x22, x20, #0x1000
    add x22, x22, #0x123
    try "read-only", dc zva, x22
    add x22, x20, #0x2000
    add x22, x22, #0xfff
    try "nothing there", dc zva, x22
    subs x19, x19, #1
    b.pl 1b
    add x22, x20, #0x40
    try_user "EL0 may not", dc zva, x22
    mrs x0, sctlr_el1
    orr x0, x0, #1 << 14        // DZE
    msr sctlr_el1, x0
    isb
    str x20, [x20, #0x40]
    try_user "EL0 may", dc zva, x22
    ldr x9, [x20, #0x40]
    show "cleared at EL0", x9
    br x21

    .ltorg
    .bss
    .balign 4096
page_a:
    .skip 4096
page_b:
    .skip 4096
