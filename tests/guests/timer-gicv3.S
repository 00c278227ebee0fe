// Timers and SGIs through GICv3: distributor at 0x08000000, redistributor at 0x080a0000, system
// registers.

    .macro gic_init
    mov x20, #0x08000000
    ldr x21, =0x080a0000
    mov w0, #0x10
    str w0, [x20]               // GICD_CTLR.ARE
    mov w0, #0x12
    str w0, [x20]               // and group 1
    str wzr, [x21, #0x14]       // GICR_WAKER: awake
9200:
    ldr w0, [x21, #0x14]
    tbnz w0, #2, 9200b
    add x22, x21, #0x10000
    mov w0, #-1
    str w0, [x22, #0x80]        // GICR_IGROUPR0
    ldr w0, =(1 << 27) + (1 << 30) + (1 << 5)
    str w0, [x22, #0x100]       // GICR_ISENABLER0
    mov x0, #7
    msr s3_0_c12_c12_5, x0      // ICC_SRE_EL1
    isb
    mov x0, #0xf0
    msr s3_0_c4_c6_0, x0        // ICC_PMR_EL1
    mov x0, #1
    msr s3_0_c12_c12_7, x0      // ICC_IGRPEN1_EL1
    isb
    .endm
    .macro gic_ack
    mrs x0, s3_0_c12_c12_0      // ICC_IAR1_EL1
    .endm
    .macro gic_end
    msr s3_0_c12_c12_1, x0      // ICC_EOIR1_EL1
    .endm
    .macro gic_self
    ldr x0, =(5 << 24) + 1
    msr s3_0_c12_c11_5, x0      // ICC_SGI1R_EL1
    isb
    .endm

    .include "timer.inc"
