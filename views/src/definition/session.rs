//! The planner's settings, pinned: the same SQL must mean the same in every layer, on every machine, in every year.

use std::sync::Arc;

use datafusion::execution::session_state::SessionState;
use datafusion::execution::{FunctionRegistry, SessionStateBuilder};
use datafusion::optimizer::simplify_expressions::SimplifyExpressions;
use datafusion::prelude::SessionConfig;

use super::local;
use crate::sum::exact_sum;

/// The settings that decide what SQL means; part of every fingerprint.
pub(super) const PINNED: [(&str, &str); 4] = [
    ("datafusion.execution.time_zone", "+00:00"),
    ("datafusion.sql_parser.enable_ident_normalization", "true"),
    ("datafusion.sql_parser.map_string_types_to_utf8view", "false"),
    ("datafusion.sql_parser.parse_float_as_decimal", "false"),
];

/// The session in which every definition is planned. It has DataFusion's functions, with an exact `sum`, and no
/// optimizer but the one that simplifies expressions: others rewrite one aggregate into two, whose states no longer merge.
pub(super) fn pinned() -> SessionState {
    let mut config = SessionConfig::new();
    for (name, value) in PINNED {
        config.options_mut().set(name, value).expect("DataFusion knows these settings");
    }
    let mut state = SessionStateBuilder::new()
        .with_config(config)
        .with_default_features()
        .with_optimizer_rules(vec![Arc::new(SimplifyExpressions::new())])
        .with_physical_optimizer_rules(vec![])
        .build();
    state.register_udf(Arc::clone(local::function())).expect("nothing is in the way of a name of our own");
    state.register_udaf(Arc::clone(exact_sum())).expect("registering replaces the function of that name");
    state
}
