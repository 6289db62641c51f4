//! Core: threshold BLS over BLS12-381: key generation, signing, refresh, reshare.
