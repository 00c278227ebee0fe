// Synchronous exceptions at EL1 and from EL0: class, syndrome, addresses.
//
// Left out because QEMU 10.0 differs from the Arm ARM (we do not): it has no SP alignment fault, and
// the syndrome of MSR DAIFSet from EL0 has Op1 and Op2 exchanged.

    .include "common.inc"

    // Prints what was taken, then goes on at the address in x28.
    .macro vector name
    .balign 128
    b \name
    .endm

    .balign 2048
vectors:
    vector stray
    vector stray
    vector stray
    vector stray
    vector same
    vector stray
    vector stray
    vector stray
    vector lower
    vector stray
    vector stray
    vector stray

stray:
    say "stray exception\n"
    b poweroff

same:
    mov x10, sp
    adr x11, stacks             // a test may have broken the stack
    mov sp, x11
    say "from EL1\n"
    b taken
lower:
    say "from EL0\n"
taken:
    shows "  esr", esr_el1
    mrs x9, elr_el1
    sub x9, x9, x27             // distance from the instruction under test
    show "  elr", x9
    shows "  spsr", spsr_el1
    mrs x9, esr_el1
    lsr x9, x9, #26
    cmp x9, #0x22               // PC alignment and data aborts: with FAR
    b.eq 1f
    bic x9, x9, #1
    cmp x9, #0x24
    b.ne 2f
1:  shows "  far", far_el1
2:  br x28

    // The instruction under test and where to go on.
    .macro try name, insn:vararg
    say "\name\n"
    cmp xzr, xzr                // flags that SPSR shows
    adr x27, 8001f
    adr x28, 8002f
8001:
    \insn
    say "no exception\n"
8002:
    adr x0, stacks
    mov sp, x0
    .endm

    // The same at EL0, with flags set.
    .macro try_user name, insn:vararg
    say "\name\n"
    adr x27, 8001f
    adr x28, 8002f
    msr elr_el1, x27
    mov x0, #0x60000000         // EL0t, Z and C
    msr spsr_el1, x0
    eret
8001:
    \insn
    svc #0xdead
8002:
    adr x0, stacks
    mov sp, x0
    .endm

main:
    adr x0, vectors
    msr vbar_el1, x0
    mov x0, #(3 << 20)          // no traps of FP
    msr cpacr_el1, x0
    isb
    try "svc", svc #0x123
    try "brk", brk #0x77
    try "undefined", .inst 0x00000000
    try "hlt", hlt #0x1234
    try "unknown register", mrs x0, s3_7_c15_c7_7
    try "el2 register", mrs x0, hcr_el2
    try "smc", smc #1
    mov x20, #UART
    add x20, x20, #1
    try "unaligned device load", ldr w0, [x20]
    mov x20, #0x800000000000    // beyond every address
    try "address size", ldr x0, [x20]
    mov x20, #0x08000000
    movk x20, #0x0f, lsl #32
    try "hole, load", ldrh w0, [x20]
    try "hole, store", str x0, [x20, #8]
    adr x20, main
    add x20, x20, #2
    mov x27, x20
    adr x28, 1f
    say "pc alignment\n"
    br x20
1:  mov x0, #0
    msr cpacr_el1, x0
    isb
    try "fp trap", fmov d0, x0
    mov x0, #(1 << 20)
    msr cpacr_el1, x0
    isb
    mrs x0, sctlr_el1
    bic x0, x0, #(1 << 16)      // nTWI: WFI of EL0 traps
    msr sctlr_el1, x0
    isb
    try_user "user svc", svc #7
    try_user "user brk", brk #8
    try_user "user system register", mrs x0, sctlr_el1
    try_user "user counter", mrs x0, cntvct_el0
    try_user "user cache", dc cvau, x0
    try_user "user wfi", wfi
    try_user "user fp trap", fmov d0, x0
    try_user "user hvc", hvc #0
    say "illegal return\n"
    adr x27, 4f
    adr x28, 5f
    msr elr_el1, x27
    mov x0, #0x3cf              // there is no EL3 to return to
    msr spsr_el1, x0
    eret
4:  nop
5:  say "done\n"
    b poweroff
