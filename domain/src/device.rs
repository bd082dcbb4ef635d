//! The life of a device.

/// State of an eUICC in the registry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum DeviceState {
    /// Ordered; its keys and certificate exist, no session yet.
    Registered,
    /// Has proved possession of its keys at least once.
    Active,
    /// Reported stolen or under investigation: no key leaves for it.
    Frozen,
    /// At the end of its life; final.
    Retired,
}

impl DeviceState {
    /// The stable name used in answers and entries.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Active => "active",
            Self::Frozen => "frozen",
            Self::Retired => "retired",
        }
    }

    /// Whether keys may be released for a device in this state.
    pub const fn releases_keys(self) -> bool {
        match self {
            Self::Registered | Self::Active => true,
            Self::Frozen | Self::Retired => false,
        }
    }
}

/// Why a device was frozen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum FreezeReason {
    /// Its holder reported it stolen.
    Stolen,
    /// Its holder lost it.
    Lost,
    /// Its keys were seen in two places, or a card did not prove them.
    CloneSuspected,
    /// A court or the regulator ordered it.
    LawfulOrder,
}

impl FreezeReason {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::Stolen, Self::Lost, Self::CloneSuspected, Self::LawfulOrder];

    /// The stable name used in answers, records and entries.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stolen => "stolen",
            Self::Lost => "lost",
            Self::CloneSuspected => "clone-suspected",
            Self::LawfulOrder => "lawful-order",
        }
    }
}
