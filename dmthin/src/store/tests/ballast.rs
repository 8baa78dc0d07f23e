//! The ballast: one, under a thin id of its own, from which there is no way back.

use crate::ids::ThinId;
use crate::store::tests::Temp;
use crate::store::{BallastRecord, BallastState, StoreError};
use crate::units::Bytes;

#[test]
fn there_is_one_ballast_at_a_time_and_each_has_its_own_id() {
    let catalogue = Temp::new();
    assert_eq!(catalogue.ballast().unwrap(), None);
    assert!(matches!(
        catalogue.set_ballast(BallastState::Releasing),
        Err(StoreError::BallastNotFound)
    ));
    for id in [0, 1] {
        let filling = BallastRecord {
            thin_id: ThinId::new(id).unwrap(),
            size: Bytes::from_gib(2),
            state: BallastState::Filling,
        };
        assert_eq!(catalogue.begin_ballast(filling.size).unwrap(), filling);
        assert!(matches!(
            catalogue.begin_ballast(filling.size),
            Err(StoreError::BallastExists)
        ));
        assert_eq!(catalogue.ballast().unwrap(), Some(filling));
        for state in [
            BallastState::Ready,
            BallastState::Releasing,
            BallastState::Releasing,
        ] {
            let now = catalogue.set_ballast(state).unwrap();
            assert_eq!(now, BallastRecord { state, ..filling });
            assert_eq!(catalogue.ballast().unwrap(), Some(now));
        }
        assert!(matches!(
            catalogue.set_ballast(BallastState::Ready),
            Err(StoreError::BallastNotFound)
        ));
        catalogue.forget_ballast().unwrap();
        assert_eq!(catalogue.ballast().unwrap(), None);
    }
    catalogue.begin_ballast(Bytes::from_gib(1)).unwrap();
    let kept = catalogue.ballast().unwrap();
    assert_eq!(catalogue.reopened().ballast().unwrap(), kept);
}
