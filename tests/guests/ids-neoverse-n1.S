// Identification registers of neoverse-n1.
    .include "ids.inc"
