//! The steps that the library tells, as events of `tracing`.

use dmthin::graph::STEP_TARGET;
use tracing::Event;
use tracing::field::{Field, Visit};

/// The value of the field `step`.
#[derive(Default)]
struct StepId(String);

impl Visit for StepId {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "step" {
            value.clone_into(&mut self.0);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

/// The step that an event tells of, if it is one of those.
pub(crate) fn step_of(event: &Event<'_>) -> Option<String> {
    (event.metadata().target() == STEP_TARGET).then(|| {
        let mut id = StepId::default();
        event.record(&mut id);
        id.0
    })
}
