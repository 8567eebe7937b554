//! `date_trunc('day', event_time, 'Europe/Berlin')`: the periods of [`crate::calendar`] as buckets.
//!
//! The form with three arguments is PostgreSQL's. DataFusion has the one with two; truncating a local time and casting it back, which it
//! would do instead, cuts a day in two where midnight happens twice. The call is planned under a name of its own.

use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};

use arrow::array::{AsArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, TimestampMicrosecondType};
use datafusion::common::{Result, ScalarValue, exec_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName, Statement, visit_expressions_mut,
};

use crate::calendar::{Unit, Zone, start_of};
use crate::schema::timestamp_type;

/// What the call is planned as; nobody writes it.
pub(super) const NAME: &str = "_local_date_trunc";

/// The arguments of a `date_trunc` with a zone; `None` for any other call.
pub(super) fn arguments(function: &Function) -> Option<[&Expr; 3]> {
    let FunctionArguments::List(list) = &function.args else { return None };
    let [unit, time, zone] = list.args.as_slice() else { return None };
    if !function.name.to_string().eq_ignore_ascii_case("date_trunc") {
        return None;
    }
    Some([expr(unit)?, expr(time)?, expr(zone)?])
}

fn expr(argument: &FunctionArg) -> Option<&Expr> {
    if let FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) = argument { Some(expr) } else { None }
}

/// What is wrong with the unit or the zone of such a call, and which of the arguments it is.
pub(super) fn check([unit, _, zone]: [&Expr; 3]) -> std::result::Result<(), (&Expr, String)> {
    let known = literal(unit)?;
    if Unit::parse(&known).is_none() {
        return Err((unit, "a local date_trunc has the units day, week, month, quarter and year".to_owned()));
    }
    Zone::parse(&literal(zone)?).map(|_| ()).map_err(|e| (zone, e.to_string()))
}

fn literal(expr: &Expr) -> std::result::Result<String, (&Expr, String)> {
    let text = if let Expr::Value(value) = expr { value.value.clone().into_string() } else { None };
    text.ok_or_else(|| (expr, "write a text here, such as 'day' or 'Europe/Berlin'".to_owned()))
}

/// Plans every such call in `statement` as [`NAME`]; the answer is whether there is one.
pub(super) fn rename(statement: &mut Statement) -> bool {
    let mut found = false;
    let _all: ControlFlow<()> = visit_expressions_mut(statement, |expr| {
        if let Expr::Function(function) = expr
            && arguments(function).is_some()
        {
            function.name = ObjectName::from(vec![Ident::new(NAME)]);
            found = true;
        }
        ControlFlow::Continue(())
    });
    found
}

/// Some eight thousand years before and after 1970.
const FARTHEST_US: i64 = 1 << 58;

/// The function.
pub(super) fn function() -> &'static Arc<ScalarUDF> {
    static FUNCTION: OnceLock<Arc<ScalarUDF>> = OnceLock::new();
    FUNCTION.get_or_init(|| Arc::new(ScalarUDF::from(LocalDateTrunc::default())))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct LocalDateTrunc {
    signature: Signature,
}

impl Default for LocalDateTrunc {
    fn default() -> Self {
        Self { signature: Signature::exact(vec![DataType::Utf8, timestamp_type(), DataType::Utf8], Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for LocalDateTrunc {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(timestamp_type())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [ColumnarValue::Scalar(ScalarValue::Utf8(Some(unit))), times, ColumnarValue::Scalar(ScalarValue::Utf8(Some(zone)))] =
            args.args.as_slice()
        else {
            return exec_err!("the unit and the zone of date_trunc must be literals");
        };
        let (Some(unit), Ok(zone)) = (Unit::parse(unit), Zone::parse(zone)) else {
            return exec_err!("date_trunc takes no unit {unit} in zone {zone}");
        };
        let times = times.to_array(args.number_rows)?;
        let times = times.as_primitive::<TimestampMicrosecondType>();
        // A calendar has no dates far beyond those of events, which only a sum could come to.
        let start =
            |time: i64| if time.abs() <= FARTHEST_US { Ok(start_of(unit, zone, time)) } else { exec_err!("a time is out of range") };
        let starts: TimestampMicrosecondArray = times.try_unary(start)?;
        Ok(ColumnarValue::Array(Arc::new(starts.with_timezone("+00:00"))))
    }
}
