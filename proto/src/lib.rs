//! The contract: API messages, stored records, the rule of each RPC.
