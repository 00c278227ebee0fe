// Identification registers of cortex-a53.
    .include "ids.inc"
