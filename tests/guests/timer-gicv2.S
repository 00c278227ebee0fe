// Timers and SGIs through GICv2: distributor at 0x08000000, CPU interface at 0x08010000.

    .macro gic_init
    mov x20, #0x08000000
    mov x21, #0x08010000
    mov w0, #1
    str w0, [x20]               // GICD_CTLR
    ldr w0, =(1 << 27) + (1 << 30) + (1 << 5)
    str w0, [x20, #0x100]       // GICD_ISENABLER0
    mov w0, #0xf0
    str w0, [x21, #4]           // GICC_PMR
    mov w0, #1
    str w0, [x21]               // GICC_CTLR
    .endm
    .macro gic_ack
    ldr w0, [x21, #0xc]
    .endm
    .macro gic_end
    str w0, [x21, #0x10]
    .endm
    .macro gic_self
    ldr w0, =(2 << 24) + 5
    str w0, [x20, #0xf00]
    .endm

    .include "timer.inc"
