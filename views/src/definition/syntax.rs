//! The first gate, on the syntax tree: one plain `SELECT … FROM events [WHERE …] GROUP BY …` and nothing else.
//!
//! It allows by construction: the statement is compared with a bare one that has the allowed parts only, so that a
//! clause which a later parser learns is refused without anybody having thought of it.

use std::collections::HashSet;
use std::ops::ControlFlow;

use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::Volatility;
use datafusion::sql::sqlparser::ast::{
    Expr, Function, GroupByExpr, Ident, Query, Select, SelectItem, SetExpr, Spanned, Statement, TableFactor, Value, visit_expressions,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Location, Span, Token, Tokenizer};

use super::error::{DefinitionError, Place};
use super::local;
use crate::schema::EventSchema;

/// Aggregates whose answer depends on the order of events in a way that `ORDER BY` cannot settle.
const UNSPLITTABLE: [(&str, &str); 4] = [
    ("any_value", "any_value may answer differently each time; write first_value(… ORDER BY event_time)"),
    ("string_agg", "string_agg cannot be merged from two halves; write array_agg(… ORDER BY event_time)"),
    ("nth_value", "nth_value cannot be merged from two halves; write first_value or last_value with ORDER BY"),
    ("grouping", "grouping() belongs to grouping sets, which a view does not have; leave it out"),
];

/// Longest piece of SQL without a comma, in tokens. `a + a + a …` is a tree as deep as it is long, which the planner and every
/// evaluation descend by recursion: a stack of 2 MiB ends somewhere beyond 400 levels, and the process with it.
const MAX_PIECE_TOKENS: usize = 300;

/// A statement that passed the gate.
pub(super) struct Checked {
    pub(super) statement: Statement,
    /// Name of each output, in the order of the SELECT list: its alias, or its text.
    pub(super) output_names: Vec<String>,
}

pub(super) fn check(sql: &str, schema: &EventSchema, state: &SessionState) -> Result<Checked, DefinitionError> {
    check_pieces(sql)?;
    let statement = only_statement(sql)?;
    let select = only_select(sql, &statement)?;
    let GroupByExpr::Expressions(group_by, _) = &select.group_by else {
        return Err(refuse(sql, Keyword::GROUP, "GROUP BY ALL is not supported; name the key and the bucket"));
    };
    check_names(&statement, select, schema, state)?;
    if group_by.is_empty() {
        return Err(DefinitionError::at(
            place(statement.span().end),
            "a view needs a key; end it with GROUP BY user_id, date_trunc('day', event_time)",
        ));
    }
    let output_names = select.projection.iter().map(output_name).collect::<Result<_, _>>()?;
    Ok(Checked { statement, output_names })
}

/// Refuses what is too long without a comma; text that is not even tokens is left to the parser.
fn check_pieces(sql: &str) -> Result<(), DefinitionError> {
    let mut tokens = 0;
    for token in Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location().unwrap_or_default() {
        match token.token {
            Token::Comma => tokens = 0,
            Token::Whitespace(_) => {}
            _ => tokens += 1,
        }
        if tokens > MAX_PIECE_TOKENS {
            return Err(DefinitionError::at(
                place(token.span.start),
                format!(
                    "more than {MAX_PIECE_TOKENS} words and signs without a comma; write x IN (…) for a chain of OR, or several measures"
                ),
            ));
        }
    }
    Ok(())
}

fn only_statement(sql: &str) -> Result<Statement, DefinitionError> {
    let mut statements = Parser::parse_sql(&GenericDialect {}, sql).map_err(|e| parser_error(&e.to_string()))?;
    if statements.len() > 1 {
        let second = place(statements[1].span().start);
        return Err(DefinitionError::at(second, "a second statement; a view is one SELECT, and each view has its own file"));
    }
    statements.pop().ok_or_else(|| DefinitionError::new("the definition is empty; write SELECT … FROM events GROUP BY user_id"))
}

/// The parser puts its place behind the message: ` at Line: 3, Column: 8`.
fn parser_error(text: &str) -> DefinitionError {
    let text = text.trim_start_matches("sql parser error: ");
    let located = text.rsplit_once(" at Line: ").and_then(|(message, at)| {
        let (line, column) = at.split_once(", Column: ")?;
        Some(DefinitionError::at(Some(Place { line: line.parse().ok()?, column: column.parse().ok()? }), message))
    });
    located.unwrap_or_else(|| DefinitionError::new(text))
}

fn only_select<'a>(sql: &str, statement: &'a Statement) -> Result<&'a Select, DefinitionError> {
    let Statement::Query(query) = statement else {
        return Err(DefinitionError::at(place(statement.span().start), "a view is a SELECT over events"));
    };
    refuse_clauses_of_query(sql, query)?;
    let SetExpr::Select(select) = query.body.as_ref() else {
        return Err(DefinitionError::at(place(query.span().start), "set operations are not supported; a view is one SELECT over events"));
    };
    refuse_clauses_of_select(sql, select)?;
    let bare = Query { body: Box::new(SetExpr::Select(Box::new(bare_select(select)))), ..template() };
    if bare != **query {
        return Err(DefinitionError::at(
            place(select.span().start),
            "only SELECT … FROM events [WHERE …] GROUP BY … is supported; leave the other clauses out",
        ));
    }
    Ok(select)
}

/// The statement that has nothing but what every view has.
fn template() -> Query {
    let parsed = Parser::parse_sql(&GenericDialect {}, "SELECT user_id FROM events GROUP BY user_id");
    match parsed.map(|mut statements| statements.pop()) {
        Ok(Some(Statement::Query(query))) => *query,
        _ => unreachable!("the template is a query"),
    }
}

/// `select` with its allowed parts only.
fn bare_select(select: &Select) -> Select {
    let SetExpr::Select(template) = *template().body else { unreachable!("the template is a SELECT") };
    let group_by = match &select.group_by {
        GroupByExpr::Expressions(expressions, _) => GroupByExpr::Expressions(expressions.clone(), vec![]),
        GroupByExpr::All(_) => GroupByExpr::All(vec![]),
    };
    Select { projection: select.projection.clone(), selection: select.selection.clone(), group_by, ..*template }
}

fn refuse_clauses_of_query(sql: &str, query: &Query) -> Result<(), DefinitionError> {
    let clauses = [
        (query.with.is_some(), Keyword::WITH, "WITH is not supported; write the aggregate over events itself"),
        (query.order_by.is_some(), Keyword::ORDER, "ORDER BY is not supported here; the reader sorts"),
        (query.limit_clause.is_some(), Keyword::LIMIT, "LIMIT is not supported; a view has a row for every key and bucket"),
        (query.fetch.is_some(), Keyword::FETCH, "FETCH is not supported; a view has a row for every key and bucket"),
    ];
    first_present(sql, clauses)
}

fn refuse_clauses_of_select(sql: &str, select: &Select) -> Result<(), DefinitionError> {
    let joined = select.from.len() > 1 || select.from.iter().any(|table| !table.joins.is_empty());
    let clauses = [
        (select.distinct.is_some(), Keyword::DISTINCT, "SELECT DISTINCT is not supported; GROUP BY gives each key and bucket once already"),
        (joined, Keyword::JOIN, "joins are not supported; put what you need into the event as an attribute"),
        (
            select.having.is_some(),
            Keyword::HAVING,
            "HAVING is not supported, half of an aggregate cannot be judged; filter events with WHERE, or answers in the reader",
        ),
        (!select.named_window.is_empty(), Keyword::WINDOW, "windows are not supported; use an aggregate"),
        (select.qualify.is_some(), Keyword::QUALIFY, "QUALIFY is not supported; filter events with WHERE"),
    ];
    first_present(sql, clauses)?;
    match select.from.first().map(|table| &table.relation) {
        Some(TableFactor::Table { name, args: None, .. }) if name.to_string().eq_ignore_ascii_case("events") => Ok(()),
        Some(other) => Err(DefinitionError::at(place(other.span().start), "a view reads one table, which is called events")),
        None => Err(DefinitionError::at(place(select.span().start), "a view reads FROM events")),
    }
}

fn first_present<const N: usize>(sql: &str, clauses: [(bool, Keyword, &str); N]) -> Result<(), DefinitionError> {
    match clauses.iter().find(|(present, ..)| *present) {
        Some((_, keyword, message)) => Err(refuse(sql, *keyword, message)),
        None => Ok(()),
    }
}

/// A refusal at the first place where `keyword` stands outside parentheses.
fn refuse(sql: &str, keyword: Keyword, message: &str) -> DefinitionError {
    let mut depth = 0;
    let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location().unwrap_or_default();
    let found = tokens.iter().find(|token| {
        match &token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth -= 1,
            _ => {}
        }
        depth == 0 && matches!(&token.token, Token::Word(word) if word.keyword == keyword)
    });
    DefinitionError::at(found.and_then(|token| place(token.span.start)), message)
}

fn check_names(statement: &Statement, select: &Select, schema: &EventSchema, state: &SessionState) -> Result<(), DefinitionError> {
    let arrow = schema.arrow();
    let columns: Vec<&str> = arrow.fields().iter().map(|f| f.name().as_str()).filter(|name| !name.starts_with('_')).collect();
    let aliases: HashSet<String> = select
        .projection
        .iter()
        .filter_map(|item| match item {
            SelectItem::ExprWithAlias { alias, .. } => Some(normal(alias)),
            _ => None,
        })
        .collect();
    let outcome = visit_expressions(statement, |expr| {
        let refused = match expr {
            Expr::Identifier(name) => check_column(name, &columns, &aliases),
            Expr::CompoundIdentifier(path) => path.last().and_then(|name| check_column(name, &columns, &aliases)),
            Expr::Function(function) => check_function(function, state),
            Expr::Subquery(_) | Expr::InSubquery { .. } | Expr::Exists { .. } => {
                Some(DefinitionError::at(place(expr.span().start), "subqueries are not supported; a view reads each event by itself"))
            }
            Expr::Rollup(_) | Expr::Cube(_) | Expr::GroupingSets(_) => {
                Some(DefinitionError::at(place(expr.span().start), "grouping sets are not supported; group by the key and one bucket"))
            }
            Expr::Value(value) if matches!(value.value, Value::Placeholder(_)) => {
                Some(DefinitionError::at(place(value.span.start), "placeholders are not supported; write the value"))
            }
            _ => None,
        };
        refused.map_or(ControlFlow::Continue(()), ControlFlow::Break)
    });
    match outcome {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

fn check_column(name: &Ident, columns: &[&str], aliases: &HashSet<String>) -> Option<DefinitionError> {
    let wanted = normal(name);
    if columns.contains(&wanted.as_str()) || aliases.contains(&wanted) {
        return None;
    }
    Some(DefinitionError::at(
        place(name.span.start),
        format!("unknown column {wanted}; events has {}. Declare others under [events.attributes] in merganser.toml", columns.join(", ")),
    ))
}

fn check_function(function: &Function, state: &SessionState) -> Option<DefinitionError> {
    let name = function.name.to_string().to_lowercase();
    let at = place(function.name.span().start);
    if function.over.is_some() {
        return Some(DefinitionError::at(at, format!("{name} … OVER is a window, which is not supported; use the aggregate without OVER")));
    }
    if let Some((_, advice)) = UNSPLITTABLE.iter().find(|(unsplittable, _)| *unsplittable == name) {
        return Some(DefinitionError::at(at, *advice));
    }
    if let Some(arguments) = local::arguments(function) {
        return local::check(arguments).err().map(|(argument, message)| DefinitionError::at(place(argument.span().start), message));
    }
    if name == local::NAME {
        return Some(DefinitionError::at(at, format!("unknown function {name}; write date_trunc with the zone as its third argument")));
    }
    let volatility = match (state.scalar_functions().get(&name), state.aggregate_functions().get(&name)) {
        (Some(scalar), _) => scalar.signature().volatility,
        (None, Some(aggregate)) => aggregate.signature().volatility,
        (None, None) => return Some(DefinitionError::at(at, format!("unknown function {name}"))),
    };
    (volatility != Volatility::Immutable).then(|| {
        DefinitionError::at(
            at,
            format!("{name} does not give the same value each time, so the halves could not agree; use event_time, or a literal"),
        )
    })
}

/// SQL folds names that are not quoted to lower case.
fn normal(name: &Ident) -> String {
    if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() }
}

fn output_name(item: &SelectItem) -> Result<String, DefinitionError> {
    match item {
        SelectItem::UnnamedExpr(Expr::Identifier(name)) => Ok(normal(name)),
        SelectItem::UnnamedExpr(expr) => Ok(expr.to_string()),
        SelectItem::ExprWithAlias { alias, .. } => Ok(normal(alias)),
        other => Err(DefinitionError::at(place(other.span().start), "name each output of the view; * is not supported")),
    }
}

fn place(location: Location) -> Option<Place> {
    let known = location != Span::empty().start;
    known.then_some(Place { line: location.line, column: location.column })
}
