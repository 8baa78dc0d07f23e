//! Lines of a target's status and table. What is understood is written as it was read.
#![no_main]

use dmthin::dm::{
    ErrorTable, FlakeyTable, LinearTable, OwnUuid, PoolStatus, SilentStatus, ThinPoolTable,
    ThinStatus, ThinTable,
};
use libfuzzer_sys::fuzz_target;

/// What was parsed, written and parsed again, is the same.
macro_rules! returns {
    ($($table:ty),+: $line:expr) => {$(
        if let Ok(parsed) = <$table>::parse($line) {
            assert_eq!(<$table>::parse(&parsed.to_string()).ok(), Some(parsed));
        }
    )+};
}

fuzz_target!(|line: &str| {
    let _ = PoolStatus::parse(line);
    let _ = ThinStatus::parse(line);
    let _ = SilentStatus::parse(line);
    returns!(ThinPoolTable, ThinTable, LinearTable, FlakeyTable, ErrorTable: line);
    if let Ok(own) = line.parse::<OwnUuid>() {
        assert_eq!(own.to_dm_uuid().as_str(), line);
    }
});
