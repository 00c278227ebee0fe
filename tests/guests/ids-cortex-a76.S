// Identification registers of cortex-a76.
    .include "ids.inc"
