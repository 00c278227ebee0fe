// Debug registers, software step and the performance monitors at EL1 and from EL0.
//
// Counts of time are only compared with zero; the rest is exact. Left out because QEMU 10.0 differs
// from the Arm ARM (we do not): a locked OS lock does not hold debug exceptions back there.

    .include "common.inc"

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
    vector taken
    vector stray
    vector stray
    vector stray
    vector taken
    vector stray
    vector stray
    vector stray

stray:
    say "stray exception\n"
    b poweroff

taken:
    msr mdscr_el1, xzr          // printing takes no debug exceptions
    isb
    shows "  esr", esr_el1
    mrs x9, elr_el1
    sub x9, x9, x27             // distance from the place under test
    show "  elr", x9
    shows "  spsr", spsr_el1
    mrs x9, esr_el1
    lsr x9, x9, #26
    cmp x9, #0x34
    b.lo 1f
    cmp x9, #0x35
    b.hi 1f
    mrs x9, far_el1
    adr x10, watched
    sub x9, x9, x10
    show "  far", x9
1:  br x28

    // Debug exceptions on at EL1: MDSCR = MDE, KDE and more bits, PSTATE.D clear.
    .macro arm more=0
    mov x9, #0xa000 | \more
    msr mdscr_el1, x9
    msr daifclr, #8
    isb
    .endm

    .macro disarm
    msr mdscr_el1, xzr
    msr daifset, #8
    isb
    .endm

    .macro watch name, control, insn:vararg
    say "\name\n"
    mov x9, #(\control & 0xffff)
    movk x9, #(\control >> 16), lsl #16
    msr dbgwcr0_el1, x9
    adr x1, watched
    adr x28, 9101f
    adr x27, 9100f
    arm
9100:
    \insn
    disarm
    say "  no exception\n"
9101:
    disarm
    msr dbgwcr0_el1, xzr
    .endm

main:
    adr x0, vectors
    msr vbar_el1, x0
    mov x0, #3 << 20
    msr cpacr_el1, x0
    isb
    shows "oslsr", oslsr_el1
    adr x0, target
    msr dbgbvr0_el1, x0
    mov x0, #0x1e7              // E, PMC = EL1 and EL0, BAS = f
    msr dbgbcr0_el1, x0
    adr x27, target
    msr oslar_el1, xzr
    isb
    shows "oslsr", oslsr_el1
    say "breakpoint\n"
    adr x28, masked
    arm
    bl target
masked:
    say "breakpoint, PSTATE.D set\n"
    adr x28, 1f
    arm
    msr daifset, #8
    bl target
    disarm
    say "  no exception\n"
1:  disarm
    say "breakpoint for EL0 only\n"
    mov x0, #0x1e5
    msr dbgbcr0_el1, x0
    adr x28, 2f
    arm
    bl target
    disarm
    say "  no exception\n"
2:  disarm
    msr dbgbcr0_el1, xzr
    adr x0, watched
    msr dbgwvr0_el1, x0
    watch "watch store, store", 0x1ff7, str x2, [x1]
    watch "watch store, load", 0x1ff7, ldr x2, [x1]
    watch "watch load, load", 0x1fef, ldr x2, [x1]
    watch "watch both, load byte", 0x1fff, ldrb w2, [x1, #5]
    watch "watch bytes 2 and 3, store word", 0x0197, str w2, [x1]
    watch "watch bytes 2 and 3, store byte 1", 0x0197, strb w2, [x1, #1]
    watch "watch bytes 2 and 3, other page part", 0x0197, str x2, [x1, #64]
    watch "watch 64 bytes", 0x06001ff7, str w2, [x1, #36]
    watch "watch store, pair from below", 0x1ff7, stp x2, x3, [x1, #-8]
    watch "watch store, swap", 0x1ff7, swp x2, x3, [x1]
    watch "watch load, exclusive", 0x1fef, ldxr x2, [x1]
    watch "not enabled", 0x1ff6, str x2, [x1]
    watch "EL0 only, EL1 store", 0x1ff5, str x2, [x1]

    say "step in EL0\n"
    adr x27, user
    adr x28, stepped
    msr elr_el1, x27
    mov x0, #1 << 21            // SS
    msr spsr_el1, x0
    mov x0, #1
    msr mdscr_el1, x0
    mov x5, #0
    isb
    eret
stepped:
    say "step, not armed: before the instruction\n"
    adr x28, stepped2
    msr elr_el1, x27
    msr spsr_el1, xzr
    mov x0, #1
    msr mdscr_el1, x0
    isb
    eret
stepped2:
    show "x5", x5
    say "step over svc\n"
    adr x27, usersvc
    adr x28, pmu
    msr elr_el1, x27
    mov x0, #1 << 21
    msr spsr_el1, x0
    mov x0, #1
    msr mdscr_el1, x0
    isb
    eret

pmu:
    msr mdscr_el1, xzr
    isb
    say "pmu\n"
    shows "pmcr", pmcr_el0
    shows "pmceid0", pmceid0_el0
    shows "pmceid1", pmceid1_el0
    mov x0, #-1
    msr pmcntenset_el0, x0
    shows "pmcntenset", pmcntenset_el0
    mov x0, #-1
    msr pmcntenclr_el0, x0
    shows "pmcntenset", pmcntenset_el0
    mov x0, #-1
    msr pmintenset_el1, x0
    shows "pmintenset", pmintenset_el1
    msr pmintenclr_el1, x0
    mov x0, #-1
    msr pmccfiltr_el0, x0
    shows "pmccfiltr", pmccfiltr_el0
    msr pmccfiltr_el0, xzr
    mov x0, #2
    msr pmselr_el0, x0
    mov x0, #0x1234
    msr pmxevcntr_el0, x0
    shows "pmevcntr2", pmevcntr2_el0
    mov x0, #-1
    msr pmevtyper2_el0, x0
    shows "pmxevtyper", pmxevtyper_el0
    // software increment over the edge
    msr pmevtyper2_el0, xzr
    mov x0, #0xfffffffe
    msr pmevcntr2_el0, x0
    mov x0, #4
    msr pmcntenset_el0, x0
    msr pmswinc_el0, x0
    shows "off", pmevcntr2_el0
    mov x0, #0x41
    msr pmcr_el0, x0
    mov x0, #4
    msr pmswinc_el0, x0
    shows "one", pmevcntr2_el0
    shows "pmovs", pmovsset_el0
    mov x0, #4
    msr pmswinc_el0, x0
    shows "two", pmevcntr2_el0
    shows "pmovs", pmovsset_el0
    mov x0, #4
    msr pmovsclr_el0, x0
    shows "pmovs", pmovsclr_el0
    // cycles pass
    mov x0, #1 << 31
    msr pmcntenset_el0, x0
    mrs x10, pmccntr_el0
    mov x11, #10000
1:  subs x11, x11, #1
    b.ne 1b
    mrs x12, pmccntr_el0
    cmp x12, x10
    cset x9, hi
    show "cycles", x9
    mov x0, #0x45               // reset the cycle counter and stop
    msr pmcr_el0, x0
    msr pmcr_el0, xzr
    mov x0, #-1
    msr pmccntr_el0, x0
    shows "pmccntr", pmccntr_el0
    msr pmuserenr_el0, x0
    shows "pmuserenr", pmuserenr_el0
    b poweroff

target:
    ret

    .balign 16
user:
    add x5, x5, #1
    add x5, x5, #1
    b .
usersvc:
    svc #7
    b .

    .balign 128
    .skip 64
watched:
    .skip 128
