// Identification registers of cortex-a72.
    .include "ids.inc"
