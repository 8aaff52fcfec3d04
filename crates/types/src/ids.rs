//! Identifiers. All random ones are 128 bits wide, so that none is ever guessed or met twice.

use std::fmt;

/// A token of the model's vocabulary.
pub type TokenId = u32;

macro_rules! id128 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
        pub struct $name(pub u128);

        impl $name {
            /// Sixteen bytes, most significant first, as they travel.
            pub fn to_bytes(self) -> [u8; 16] {
                self.0.to_be_bytes()
            }

            /// The inverse of [`Self::to_bytes`]; `None` unless there are exactly sixteen.
            pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
                Some(Self(u128::from_be_bytes(bytes.try_into().ok()?)))
            }
        }
    };
}

id128!(
    /// One request of a client, the same in every role it visits.
    RequestId
);
id128!(
    /// One life of one worker: an instance that lost its lease comes back under a new id.
    InstanceId
);
id128!(
    /// The unguessable secret of a transfer handle, checked by the owner of the memory.
    Secret
);

macro_rules! show_hex {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({:032x})", stringify!($name), self.0)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }
    )*};
}
show_hex!(RequestId, InstanceId);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A lease within its owner: a slot and the generation that the slot had when it was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId {
    /// Index into the owner's lease table.
    pub slot: u32,
    /// Rises each time the slot is reused, so a stale handle never matches.
    pub generation: u32,
}
