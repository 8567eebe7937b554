//! `sum`, but over integers it is a decimal: DataFusion's own wraps around at 64 bits without a word. Over decimals it wraps at
//! 128 bits, so those that could come near are refused.

use std::sync::{Arc, OnceLock};

use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::Result;
use datafusion::functions_aggregate::sum::Sum;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, GroupsAccumulator, Signature, Volatility};

/// Widest decimal that may be summed: 128 bits hold more than ten thousand million of the largest values.
const MAX_PRECISION: u8 = 28;

/// DataFusion's `sum` with integers planned as `decimal(38,0)`.
pub(crate) fn exact_sum() -> &'static Arc<AggregateUDF> {
    static SUM: OnceLock<Arc<AggregateUDF>> = OnceLock::new();
    SUM.get_or_init(|| Arc::new(AggregateUDF::from(ExactSum::default())))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ExactSum {
    inner: Sum,
    signature: Signature,
}

impl Default for ExactSum {
    fn default() -> Self {
        Self { inner: Sum::new(), signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl AggregateUDFImpl for ExactSum {
    fn name(&self) -> &str {
        "sum"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            // The sum of these is a decimal(38,0).
            [kind] if kind.is_integer() => Ok(vec![DataType::Decimal128(MAX_PRECISION, 0)]),
            [DataType::Decimal128(precision, _)] if *precision <= MAX_PRECISION => Ok(types.to_vec()),
            [DataType::Decimal128(precision, scale)] => datafusion::common::plan_err!(
                "sum over decimal({precision},{scale}) could wrap around without a word; write sum(CAST(… AS decimal({MAX_PRECISION},{})))",
                (*scale).min(8)
            ),
            [kind] if kind.is_floating() => Ok(vec![DataType::Float64]),
            _ => datafusion::common::plan_err!("sum takes one number, got {types:?}"),
        }
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        self.inner.accumulator(args)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        self.inner.state_fields(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        self.inner.create_groups_accumulator(args)
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }
}
