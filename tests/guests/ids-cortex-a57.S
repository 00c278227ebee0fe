// Identification registers of cortex-a57.
    .include "ids.inc"
