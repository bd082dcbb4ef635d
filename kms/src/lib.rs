//! Devices, keysets, grants, orders, session keys: the operations.
