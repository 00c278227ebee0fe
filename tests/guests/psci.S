// PSCI 1.1 by HVC: what every function number answers and what PSCI_FEATURES says of it; CPU_ON with
// wrong and right arguments; CPU_OFF and on again; CPU_SUSPEND woken by an interrupt of the timer.
//
// Left out: calls that do not return (SYSTEM_OFF ends the program, SYSTEM_RESET).

    .include "common.inc"

    // Calls with w0 = \f, x1 = \a, x2 = \b, x3 = \c and prints the answer.
    .macro call name, f, a=0, b=0, c=0
    ldr x1, =\a
    ldr x2, =\b
    ldr x3, =\c
    ldr x0, =\f
    hvc #0
    mov x9, x0
    show "\name", x9
    .endm

    .balign 2048
vectors:
    .rept 16
    .balign 128
    b stray
    .endr
stray:
    say "stray exception\n"
    b poweroff

main:
    adr x0, vectors
    msr vbar_el1, x0
    // PSCI_FEATURES of everything.
    ldr x20, =0x84000000
1:  mov x1, x20
    ldr x0, =0x8400000a
    hvc #0
    mov x9, x0
    show "features 84", x9
    orr x1, x20, #0x40000000
    ldr x0, =0x8400000a
    hvc #0
    mov x9, x0
    show "features c4", x9
    add x20, x20, #1
    and x0, x20, #0x3f
    cmp x0, #0x20
    b.ne 1b
    call "features smccc_version", 0x8400000a, 0x80000000
    call "smccc_version", 0x80000000
    call "version", 0x84000000
    call "affinity_info, itself", 0xc4000004, 0, 0
    call "affinity_info, off", 0xc4000004, 1, 0
    call "affinity_info, level 1", 0xc4000004, 0, 1
    call "affinity_info, level 3", 0xc4000004, 0, 3
    call "affinity_info, level 4", 0xc4000004, 0, 4
    call "affinity_info, none there", 0xc4000004, 77, 0
    call "affinity_info, 32 bits", 0x84000004, 1, 0
    call "migrate", 0x84000005, 0
    call "migrate, 64 bits", 0xc4000005, 0
    call "migrate_info_type", 0x84000006
    call "migrate_info_up_cpu", 0x84000007
    call "migrate_info_up_cpu, 64 bits", 0xc4000007
    call "cpu_freeze", 0x8400000b
    call "node_hw_state", 0x8400000d
    call "system_suspend", 0xc400000e
    call "set_suspend_mode", 0x8400000f
    call "stat_residency", 0xc4000010
    call "stat_count", 0xc4000011
    call "mem_protect", 0x84000013
    call "unknown", 0x84000033
    call "standard service", 0x84008000
    call "vendor", 0x86000000
    call "cpu_on, itself", 0xc4000003, 0, 0x40200000
    call "cpu_on, none there", 0xc4000003, 99, 0x40200000
    call "cpu_on, reserved bits", 0xc4000003, 0x80000001, 0x40200000

    // The other one counts and goes off; twice, by the 64-bit and by the 32-bit call.
    mov x21, #0
    ldr x22, =0xc4000003
2:  mov x0, x22
    mov x1, #1
    adr x2, second
    mov x3, #0x55
    hvc #0
    mov x9, x0
    show "cpu_on", x9
    adr x20, count
3:  ldar x9, [x20]
    cmp x9, x21
    b.eq 3b
    mov x21, x9
    show "it came", x9
    ldr x9, [x20, #8]
    show "with", x9
    ldr x9, [x20, #16]
    show "at", x9
4:  ldr x0, =0xc4000004
    mov x1, #1
    mov x2, #0
    hvc #0
    cmp x0, #1
    b.ne 4b
    say "it is off\n"
    ldr x22, =0x84000003
    cmp x21, #2
    b.ne 2b

    // Suspended until the virtual timer fires, its interrupt masked at the CPU.
    mov x1, #0x08000000         // distributor, then the CPU interface
    mov w0, #1
    str w0, [x1]
    mov w2, #(1 << 27)
    str w2, [x1, #0x100]
    add x3, x1, #0x10000
    mov w2, #0xff
    str w2, [x3, #4]
    str w0, [x3]
    mov x0, #1000
    msr cntv_tval_el0, x0
    mov x0, #1
    msr cntv_ctl_el0, x0
    isb
    call "cpu_suspend", 0xc4000001, 0
    mrs x9, cntv_ctl_el0
    show "timer", x9
    msr cntv_ctl_el0, xzr
    say "done\n"
    b poweroff

second:
    adr x1, count
    str x0, [x1, #8]
    mrs x0, currentel
    str x0, [x1, #16]
    ldr x0, [x1]
    add x0, x0, #1
    stlr x0, [x1]
    ldr x0, =0x84000002
    hvc #0
    b .

    .ltorg
    .balign 8
count:
    .quad 0, 0, 0
