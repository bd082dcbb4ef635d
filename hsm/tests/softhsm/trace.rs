//! What the workers ask of PKCS#11, as pkcs11-spy saw it.
