//! Draws queries, in the spirit of SQLsmith: well typed, deep rather than long, over the harness's relations.

use super::query::{Column, Query, Type};
use crate::harness::Chance;

/// Draws one query after another.
pub struct Generator<'a> {
    pub chance: &'a mut Chance,
    names: usize,
}

const EVENTS: &[(&str, Type)] = &[
    ("id", Type::Int),
    ("user_id", Type::Int),
    ("kind", Type::Text),
    ("amount", Type::Float),
    ("price", Type::Decimal),
    ("at", Type::Instant),
    ("ok", Type::Bool),
    ("n", Type::Int),
    ("tags", Type::Texts),
];
const USERS: &[(&str, Type)] = &[
    ("user_id", Type::Int),
    ("name", Type::Text),
    ("score", Type::Float),
    ("joined", Type::Date),
    ("country", Type::Text),
];
const RATES: &[(&str, Type)] = &[("day", Type::Date), ("currency", Type::Text), ("rate", Type::Float)];

const PLAIN: [Type; 7] = [Type::Int, Type::Text, Type::Float, Type::Decimal, Type::Instant, Type::Date, Type::Bool];

fn is_plain(column: &Column) -> bool {
    PLAIN.contains(&column.1)
}

impl<'a> Generator<'a> {
    /// Draws by `chance`.
    pub fn new(chance: &'a mut Chance) -> Self {
        Self { chance, names: 0 }
    }

    /// A query of up to so many levels.
    pub fn query(&mut self, levels: u64) -> Query {
        if levels == 0 {
            return self.table();
        }
        let next = levels - 1;
        match self.chance.below(24) {
            0..3 => self.filter(next),
            3..5 => self.project(next),
            5 => Query::Distinct(Box::new(self.narrow(next))),
            6..10 => self.join(next),
            10 => self.as_of(next),
            11..14 => self.semi(next),
            14..18 => self.aggregate(next),
            18..20 => self.window(next),
            20 => self.set(next),
            21 => self.limit(next),
            22 => self.unnest(next),
            _ => self.reach(next),
        }
    }

    fn name(&mut self) -> String {
        self.names += 1;
        format!("x{}", self.names)
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.chance.below(of.len() as u64) as usize].clone()
    }

    fn table(&mut self) -> Query {
        let (relation, all) =
            self.one(&[("events", EVENTS), ("events", EVENTS), ("users", USERS), ("finance.rates", RATES)]);
        let mut columns: Vec<(&'static str, Column)> = Vec::new();
        for (own, data_type) in all {
            if self.chance.once_in(2) {
                columns.push((own, (self.name(), *data_type)));
            }
        }
        if columns.is_empty() {
            let (own, data_type) = self.one(all);
            columns.push((own, (self.name(), data_type)));
        }
        Query::Table { relation, columns }
    }

    fn filter(&mut self, levels: u64) -> Query {
        let input = self.query(levels);
        let columns = input.columns();
        let mut conditions = Vec::new();
        for _ in 0..=self.chance.below(2) {
            let timed: Vec<&Column> = columns.iter().filter(|c| c.1 == Type::Instant).collect();
            if !timed.is_empty() && self.chance.once_in(4) {
                let days = 1 + self.chance.below(6);
                let (name, _) = timed[self.chance.below(timed.len() as u64) as usize];
                let compare = self.one(&[">", ">=", "<", "<="]);
                conditions.push(format!("{name} {compare} now() - INTERVAL '{days} days'"));
            } else {
                conditions.push(self.condition(&columns, 2));
            }
        }
        Query::Filter { input: Box::new(input), conditions }
    }

    fn project(&mut self, levels: u64) -> Query {
        let input = self.query(levels);
        let from = input.columns();
        let mut columns = Vec::new();
        for _ in 0..=self.chance.below(4) {
            let data_type = self.one(&PLAIN);
            columns.push((self.expression(data_type, &from, 2), (self.name(), data_type)));
        }
        if let Some((name, list)) = from.iter().find(|c| c.1 == Type::Texts) {
            columns.push((name.clone(), (self.name(), *list)));
        }
        Query::Project { input: Box::new(input), columns }
    }

    /// A query of few columns, which meet often.
    fn narrow(&mut self, levels: u64) -> Query {
        let input = self.query(levels);
        let mut columns: Vec<(String, Column)> = Vec::new();
        for (name, data_type) in input.columns() {
            if columns.len() < 2 && data_type != Type::Other && self.chance.once_in(2) {
                columns.push((name, (self.name(), data_type)));
            }
        }
        if columns.is_empty() {
            columns.push(("1".into(), (self.name(), Type::Int)));
        }
        Query::Project { input: Box::new(input), columns }
    }

    /// Equalities between columns of one type, when there are any.
    fn equalities(&mut self, left: &[Column], right: &[Column], most: u64) -> Vec<String> {
        let mut pairs = Vec::new();
        for one in left.iter().filter(|c| is_plain(c)) {
            pairs.extend(right.iter().filter(|c| c.1 == one.1).map(|other| (one.0.clone(), other.0.clone())));
        }
        let mut equal = Vec::new();
        for _ in 0..=self.chance.below(most) {
            if !pairs.is_empty() {
                let (one, other) = self.one(&pairs);
                let equality = match self.chance.once_in(6) {
                    true => format!("({one} IS NOT DISTINCT FROM {other})"),
                    false => format!("{one} = {other}"),
                };
                equal.push(equality);
            }
        }
        equal
    }

    /// Two queries; now and then the second is the first with other names.
    fn two(&mut self, levels: u64) -> (Query, Query) {
        let left = self.query(levels);
        if !self.chance.once_in(4) {
            let levels = levels.min(self.chance.below(3));
            return (left, self.query(levels));
        }
        let columns = left.columns().into_iter().map(|(name, data_type)| (name, (self.name(), data_type))).collect();
        let right = Query::Project { input: Box::new(left.clone()), columns };
        (left, right)
    }

    fn join(&mut self, levels: u64) -> Query {
        let (left, right) = self.two(levels);
        let (l, r) = (left.columns(), right.columns());
        let mut on = self.equalities(&l, &r, 2);
        let kinds = ["JOIN", "JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"];
        let mut kind = self.one(&kinds);
        if on.is_empty() {
            kind = self.one(&["JOIN", "LEFT JOIN", "CROSS JOIN"]);
        }
        if self.chance.once_in(3) || on.is_empty() {
            let both: Vec<Column> = l.into_iter().chain(r).collect();
            on.push(self.condition(&both, 1));
        }
        Query::Join { kind, left: Box::new(left), right: Box::new(right), on }
    }

    fn as_of(&mut self, levels: u64) -> Query {
        let (left, right) = self.two(levels);
        let (l, r) = (left.columns(), right.columns());
        let mut on = self.equalities(&l, &r, 1);
        on.retain(|equal| !equal.contains("DISTINCT"));
        let has = |columns: &[Column], data_type| columns.iter().any(|c| c.1 == data_type);
        let times = [Type::Instant, Type::Date, Type::Int, Type::Float];
        let Some(data_type) = times.into_iter().find(|t| has(&l, *t) && has(&r, *t)) else {
            return left;
        };
        let (one, other) = (self.expression(data_type, &l, 0), self.expression(data_type, &r, 0));
        let sign = self.one(&[">=", ">", "<=", "<"]);
        let nearest = format!("{one} {sign} {other}");
        Query::AsOf { outer: self.chance.once_in(2), left: Box::new(left), right: Box::new(right), nearest, on }
    }

    fn semi(&mut self, levels: u64) -> Query {
        let (input, subquery) = self.two(levels);
        let (outer, inner) = (input.columns(), subquery.columns());
        let all: Vec<Column> = outer.iter().chain(&inner).cloned().collect();
        let (test, selected, conditions) = match self.chance.below(4) {
            0 | 1 => {
                let mut conditions = self.equalities(&outer, &inner, 2);
                if self.chance.once_in(3) {
                    conditions.push(self.condition(&all, 1));
                }
                let test = self.one(&["EXISTS", "NOT EXISTS"]);
                (test.to_owned(), "1 AS one".to_owned(), conditions)
            }
            2 => {
                let data_type = self.one(&PLAIN);
                let test = self.one(&["IN", "NOT IN"]);
                let selected = self.expression(data_type, &inner, 0);
                let tested = self.expression(data_type, &outer, 1);
                let conditions = if self.chance.once_in(3) { vec![self.condition(&inner, 1)] } else { Vec::new() };
                (format!("{tested} {test}"), format!("{selected} AS one"), conditions)
            }
            _ => {
                let data_type = self.one(&[Type::Int, Type::Text, Type::Date, Type::Decimal]);
                let sign = self.one(&[">=", "<", "=", "<>"]);
                let tested = self.expression(data_type, &outer, 0);
                let extreme = self.one(&["min", "max"]);
                let selected = self.expression(data_type, &inner, 0);
                let conditions = if self.chance.once_in(2) { self.equalities(&outer, &inner, 1) } else { Vec::new() };
                (format!("{tested} {sign}"), format!("{extreme}({selected}) AS one"), conditions)
            }
        };
        let (input, subquery) = (Box::new(input), Box::new(subquery));
        Query::Semi { input, test, subquery, selected, conditions }
    }

    fn aggregate(&mut self, levels: u64) -> Query {
        let input = self.query(levels);
        let from = input.columns();
        let mut groups: Vec<(String, Column)> = Vec::new();
        for _ in 0..self.chance.below(4) {
            let data_type = self.one(&PLAIN);
            let depth = self.chance.below(2);
            let group = self.expression(data_type, &from, depth);
            let literal = !from.iter().any(|(name, _)| group.contains(name.as_str()));
            if !literal && !groups.iter().any(|(other, _)| *other == group) {
                groups.push((group, (self.name(), data_type)));
            }
        }
        let sets = if groups.len() > 1 { self.one(&["", "", "", "ROLLUP", "CUBE"]) } else { "" };
        let mut calls = Vec::new();
        for _ in 0..=self.chance.below(3) {
            let (call, data_type) = self.call(&from);
            let filter = if self.chance.once_in(5) {
                format!(" FILTER (WHERE {})", self.condition(&from, 1))
            } else {
                String::new()
            };
            calls.push((format!("{call}{filter}"), (self.name(), data_type)));
        }
        Query::Aggregate { input: Box::new(input), groups, sets, calls }
    }

    /// A call of an aggregate function.
    fn call(&mut self, from: &[Column]) -> (String, Type) {
        let data_type = self.one(&PLAIN);
        let number = self.one(&[Type::Int, Type::Int, Type::Float, Type::Decimal]);
        let distinct = if self.chance.once_in(5) { "DISTINCT " } else { "" };
        match self.chance.below(9) {
            0 | 1 => ("count(*)".into(), Type::Int),
            2 => (format!("count({distinct}{})", self.expression(data_type, from, 1)), Type::Int),
            3 => (format!("sum({distinct}{})", self.expression(number, from, 1)), number),
            4 => {
                let result = if number == Type::Decimal { Type::Other } else { Type::Float };
                (format!("avg({})", self.expression(number, from, 1)), result)
            }
            5 | 6 => {
                let function = self.one(&["min", "max"]);
                let data_type = if data_type == Type::Bool { Type::Int } else { data_type };
                (format!("{function}({})", self.expression(data_type, from, 1)), data_type)
            }
            7 => {
                let function = self.one(&["bool_and", "bool_or"]);
                (format!("{function}({})", self.condition(from, 1)), Type::Bool)
            }
            _ => {
                let function = self.one(&["median", "array_agg", "stddev"]);
                let data_type = if function == "array_agg" { data_type } else { Type::Int };
                (format!("{function}({})", self.expression(data_type, from, 1)), Type::Other)
            }
        }
    }

    fn window(&mut self, levels: u64) -> Query {
        let input = self.query(levels);
        let from = input.columns();
        let plain: Vec<Column> = from.iter().filter(|c| is_plain(c)).cloned().collect();
        let mut calls = Vec::new();
        for _ in 0..=self.chance.below(2) {
            let data_type = self.one(&PLAIN);
            let number = self.one(&[Type::Int, Type::Float, Type::Decimal]);
            let argument = self.expression(data_type, &from, 1);
            let (call, result) = match self.chance.below(9) {
                0 => ("row_number()".to_owned(), Type::Int),
                1 => ("rank()".to_owned(), Type::Int),
                2 => ("dense_rank()".to_owned(), Type::Int),
                3 => (format!("lag({argument})"), data_type),
                4 => (format!("lead({argument}, 2)"), data_type),
                5 => (format!("first_value({argument})"), data_type),
                6 => ("count(*)".to_owned(), Type::Int),
                7 => (format!("sum({})", self.expression(number, &from, 0)), number),
                _ => (format!("max({})", self.expression(number, &from, 0)), number),
            };
            let mut over = Vec::new();
            if !plain.is_empty() && !self.chance.once_in(4) {
                over.push(format!("PARTITION BY {}", self.one(&plain).0));
            }
            if !plain.is_empty() && !self.chance.once_in(5) {
                over.push(format!("ORDER BY {}", self.order(&plain)));
                if call.starts_with("sum") || call.starts_with("max") || call.starts_with("count") {
                    let frames = ["", "", "ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING", "ROWS UNBOUNDED PRECEDING"];
                    over.push(self.one(&frames).to_owned());
                }
            }
            calls.push((format!("{call} OVER ({})", over.join(" ")), (self.name(), result)));
        }
        Query::Window { input: Box::new(input), calls }
    }

    fn order(&mut self, columns: &[Column]) -> String {
        let (name, _) = self.one(columns);
        let direction = self.one(&["", " DESC", " NULLS FIRST", " DESC NULLS LAST"]);
        format!("{name}{direction}")
    }

    fn set(&mut self, levels: u64) -> Query {
        let left = self.narrow(levels);
        let right = self.query(levels.min(1));
        let from = right.columns();
        let columns = left.columns().into_iter().map(|(_, data_type)| {
            let same: Vec<&Column> = from.iter().filter(|c| c.1 == data_type).collect();
            let expression = match same.is_empty() {
                false => same[self.chance.below(same.len() as u64) as usize].0.clone(),
                true => "NULL".to_owned(),
            };
            (expression, data_type)
        });
        let columns: Vec<(String, Type)> = columns.collect();
        let columns = columns.into_iter().map(|(e, data_type)| (e, (self.name(), data_type))).collect();
        let right = Query::Project { input: Box::new(right), columns };
        let operations = ["UNION ALL", "UNION", "INTERSECT", "EXCEPT", "INTERSECT ALL", "EXCEPT ALL"];
        Query::Set { operation: self.one(&operations), left: Box::new(left), right: Box::new(right) }
    }

    fn limit(&mut self, levels: u64) -> Query {
        let input = self.query(levels);
        let plain: Vec<Column> = input.columns().into_iter().filter(is_plain).collect();
        let mut order = Vec::new();
        while !plain.is_empty() && order.len() < 2 && !self.chance.once_in(3) {
            order.push(self.order(&plain));
        }
        Query::Limit { input: Box::new(input), order, rows: self.chance.below(6), skip: self.chance.below(3) }
    }

    fn unnest(&mut self, levels: u64) -> Query {
        let input = self.query(levels);
        match input.columns().into_iter().find(|c| c.1 == Type::Texts) {
            Some((list, _)) => Query::Unnest { input: Box::new(input), list, item: (self.name(), Type::Text) },
            None => Query::Distinct(Box::new(input)),
        }
    }

    fn reach(&mut self, levels: u64) -> Query {
        let (start, edges) = (self.query(levels), self.query(levels.min(1)));
        let numbers: Vec<Column> = edges.columns().into_iter().filter(|c| c.1 == Type::Int).collect();
        let from: Vec<Column> = start.columns().into_iter().filter(|c| c.1 == Type::Int).collect();
        if numbers.is_empty() || from.is_empty() {
            return start;
        }
        let (from, source, target) = (self.one(&from).0, self.one(&numbers).0, self.one(&numbers).0);
        let node = (self.name(), Type::Int);
        Query::Reach { start: Box::new(start), from, edges: Box::new(edges), source, target, node }
    }

    /// A condition over columns.
    fn condition(&mut self, from: &[Column], depth: u64) -> String {
        let data_type =
            self.one(&[Type::Int, Type::Int, Type::Text, Type::Float, Type::Decimal, Type::Instant, Type::Date]);
        let below = depth.saturating_sub(1);
        match self.chance.below(if depth == 0 { 6 } else { 10 }) {
            0..4 => {
                let sign = self.one(&["=", "<>", "<", "<=", ">", ">=", "IS DISTINCT FROM"]);
                let (one, other) = (self.expression(data_type, from, below), self.expression(data_type, from, below));
                if sign.starts_with("IS") { format!("({one} {sign} {other})") } else { format!("{one} {sign} {other}") }
            }
            4 => {
                let negation = self.one(&["", "NOT "]);
                format!("{} IS {negation}NULL", self.expression(data_type, from, below))
            }
            5 => {
                let values: Vec<String> = (0..2).map(|_| self.literal(data_type)).collect();
                let negation = self.one(&["", "NOT "]);
                format!("{} {negation}IN ({})", self.expression(data_type, from, below), values.join(", "))
            }
            6 => format!("({} OR {})", self.condition(from, below), self.condition(from, below)),
            7 => format!("({} AND {})", self.condition(from, below), self.condition(from, below)),
            8 => format!("NOT ({})", self.condition(from, below)),
            _ => match from.iter().find(|c| c.1 == Type::Bool) {
                Some((name, _)) => name.clone(),
                None => format!("{} LIKE '%i%'", self.expression(Type::Text, from, below)),
            },
        }
    }

    /// An expression of a type over columns.
    fn expression(&mut self, data_type: Type, from: &[Column], depth: u64) -> String {
        let columns: Vec<&Column> = from.iter().filter(|c| c.1 == data_type).collect();
        if depth == 0 || self.chance.once_in(2) {
            return match columns.is_empty() {
                false => columns[self.chance.below(columns.len() as u64) as usize].0.clone(),
                true => self.literal(data_type),
            };
        }
        let below = depth - 1;
        if self.chance.once_in(5) {
            let (condition, then) = (self.condition(from, below), self.expression(data_type, from, below));
            let otherwise = match self.chance.once_in(2) {
                true => format!(" ELSE {}", self.expression(data_type, from, below)),
                false => String::new(),
            };
            return format!("CASE WHEN {condition} THEN {then}{otherwise} END");
        }
        if self.chance.once_in(5) {
            let (one, other) = (self.expression(data_type, from, below), self.expression(data_type, from, below));
            let function = self.one(&["coalesce", "nullif"]);
            return format!("{function}({one}, {other})");
        }
        let mut of = |data_type: Type| self.expression(data_type, from, below);
        match data_type {
            Type::Int => {
                let (one, other, text) = (of(Type::Int), of(Type::Int), of(Type::Text));
                let forms = [
                    format!("({one} + {other})"),
                    format!("({one} - {other})"),
                    format!("({one} * 2)"),
                    format!("abs({one})"),
                    format!("(12 / {one})"),
                    format!("({one} % {other})"),
                    format!("character_length({text})"),
                    format!("CAST({text} AS INT)"),
                ];
                self.one(&forms)
            }
            Type::Text => {
                let (one, other, number) = (of(Type::Text), of(Type::Text), of(Type::Int));
                let forms = [format!("upper({one})"), format!("({one} || {other})"), format!("CAST({number} AS TEXT)")];
                self.one(&forms)
            }
            Type::Float => {
                let (one, other, number) = (of(Type::Float), of(Type::Float), of(Type::Int));
                let forms = [
                    format!("({one} + {other})"),
                    format!("({one} * {other})"),
                    format!("({one} / {other})"),
                    format!("(- {one})"),
                    format!("CAST({number} AS DOUBLE)"),
                ];
                self.one(&forms)
            }
            Type::Decimal => {
                let (one, other, number) = (of(Type::Decimal), of(Type::Decimal), of(Type::Int));
                let forms =
                    [format!("({one} + {other})"), format!("(- {one})"), format!("CAST({number} AS DECIMAL(12, 2))")];
                self.one(&forms)
            }
            Type::Instant => {
                let one = of(Type::Instant);
                // Below a NULL that a maximum gives stands a number that date_trunc cannot take, when overflow is checked.
                let known = format!("coalesce({one}, TIMESTAMP '2026-01-02T00:00:00')");
                let forms = [format!("({one} + INTERVAL '5 hours')"), format!("date_trunc('day', {known})")];
                self.one(&forms)
            }
            Type::Date => format!("CAST({} AS DATE)", of(Type::Instant)),
            Type::Bool => format!("({})", self.condition(from, below)),
            Type::Texts | Type::Other => "NULL".into(),
        }
    }

    fn literal(&mut self, data_type: Type) -> String {
        match data_type {
            Type::Int => self.one(&["0", "1", "2", "3", "-1"]).into(),
            Type::Text => self.one(&["'buy'", "'12'", "''", "'view'"]).into(),
            Type::Float => self.one(&["CAST(0.1 AS DOUBLE)", "CAST(-0.0 AS DOUBLE)", "CAST('NaN' AS DOUBLE)"]).into(),
            Type::Decimal => self.one(&["CAST(1.50 AS DECIMAL(12, 2))", "CAST(0 AS DECIMAL(12, 2))"]).into(),
            Type::Instant => self.one(&["TIMESTAMP '2026-01-04T00:00:00'", "TIMESTAMP '2026-01-08T12:00:00'"]).into(),
            Type::Date => self.one(&["DATE '2026-01-02'", "DATE '2026-01-04'"]).into(),
            Type::Bool => self.one(&["true", "false"]).into(),
            Type::Texts | Type::Other => "NULL".into(),
        }
    }
}
