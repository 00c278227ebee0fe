    .include "sysregs.inc"
