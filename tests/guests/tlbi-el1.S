    .include "tlbi.inc"

main:
    mmu_on
    adrp x0, data
    str xzr, [x0]
    mov x1, #1
    str x1, [x0, #4096]
    adrp x21, level3
    mov x22, #PAGES
    mov x20, #1
    mov x24, #0
    ldr x23, =NORMAL
    bl forms
    // The same for a page of an ASID.
    ldr x23, =NORMAL | NOT_GLOBAL
    mov x24, #5 << 48
    mrs x0, ttbr0_el1
    orr x0, x0, x24
    msr ttbr0_el1, x0
    isb
    tlbi vmalle1
    dsb ish
    isb
    bl forms
    say "done\n"
    b poweroff

forms:
    mov x19, x30
    domains vmalle1
    domains vae1, page
    domains vaae1, page
    domains vale1, page
    domains vaale1, page
    domains rvae1, range
    domains rvaae1, range
    domains rvale1, range
    domains rvaale1, range
    cbz x24, 1f
    domains aside1, asid
1:  br x19

look:
    ldr x9, [x22]
    ret

    .ltorg
    .bss
    .balign 4096
data:
    .skip 8192
