//! Who holds which component, so that some custodians restore a key and fewer know nothing of it (Ito, Saito, Nishizeki 1987).
//!
//! For each set of custodians that is one too small there is one component that none of them holds and all others do. So any
//! large enough set holds every component, and a smaller one lacks at least one, which is random.

use crate::error::HsmError;

/// Fewest custodians, and fewest of them that restore a key: one alone would know it.
const NEEDED_MIN: usize = 2;
/// Most custodians; with four needed of eight a key has 56 components, with five 70.
pub(crate) const CUSTODIANS_MAX: usize = 8;
/// Components of a key of eight custodians of whom five are needed.
pub(crate) const COMPONENTS_MAX: usize = 70;

/// For each component the places of the custodians who hold it, where `needed` of `custodians` restore the key.
pub(crate) fn holders(custodians: usize, needed: usize) -> Result<Vec<Vec<usize>>, HsmError> {
    if !(NEEDED_MIN..=CUSTODIANS_MAX).contains(&custodians) || !(NEEDED_MIN..=custodians).contains(&needed) {
        return Err(HsmError::caller(format!(
            "a key has {NEEDED_MIN} to {CUSTODIANS_MAX} custodians, of whom at least {NEEDED_MIN} are needed"
        )));
    }
    let all = 1_u32 << custodians;
    let without = (0..all).filter(|lacking| lacking.count_ones() as usize == needed - 1);
    // Counted down, so that with all of them needed the first component is the first custodian's.
    let mut held: Vec<Vec<usize>> =
        without.map(|lacking| (0..custodians).filter(|place| lacking >> place & 1 == 0).collect()).collect();
    held.reverse();
    Ok(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enough_custodians_hold_every_component_and_fewer_lack_one() {
        for custodians in NEEDED_MIN..=CUSTODIANS_MAX {
            for needed in NEEDED_MIN..=custodians {
                let held = holders(custodians, needed).unwrap();
                assert!(held.len() <= COMPONENTS_MAX);
                for present in 0_u32..1 << custodians {
                    let complete =
                        held.iter().all(|holders| holders.iter().any(|place| present >> place & 1 == 1));
                    assert_eq!(complete, present.count_ones() as usize >= needed, "{needed} of {custodians}");
                }
            }
        }
        assert_eq!(holders(3, 3).unwrap(), [[0], [1], [2]]);
        for (custodians, needed) in [(1, 1), (2, 1), (3, 4), (9, 2), (0, 0)] {
            assert!(holders(custodians, needed).is_err(), "{needed} of {custodians}");
        }
    }
}
