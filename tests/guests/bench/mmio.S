// Time of device register reads, by the virtual counter: picoseconds per read in hexadecimal, for
// PL031, PL011 and the distributor. `cargo xtask bench mmio` runs it here and on the peer.

    .include "common.inc"

    .equ ROUNDS, 1000000

    .macro measure name, address
    say "\name "
    ldr x19, =\address
    ldr w20, =ROUNDS
    isb
    mrs x21, cntvct_el0
1:  ldr w1, [x19]
    subs w20, w20, #1
    b.ne 1b
    isb
    mrs x22, cntvct_el0
    sub x22, x22, x21
    ldr x24, =1000000           // a million reads: microseconds are picoseconds each
    mul x22, x22, x24
    mrs x23, cntfrq_el0
    udiv x0, x22, x23
    bl puthex
    .endm

main:
    measure rtc, 0x09010fe0
    measure uart, 0x09000018
    measure gic, 0x08000004
    b poweroff
    .ltorg
