//! From SQL text to a [`ModelPlan`]: parse, resolve, check, optimise, canonicalise.

use crate::canonical::{self, Refusal, WorkTable, as_of, clock};
use crate::delta::Relation;
use crate::errors::{Names, PlanError, PlanErrorKind, translate};
use crate::operators::EngineError;
use crate::rewrite;
use crate::statement;
use crate::subqueries;
use crate::types::lake_type;
use crate::whole;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, DataFusionError, Result as DataFusionResult, TableReference};
use datafusion::execution::context::SessionState;
use datafusion::execution::{FunctionRegistry, SessionStateBuilder};
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::planner::{ContextProvider, ExprPlanner};
use datafusion::logical_expr::{
    AggregateUDF, Expr, HigherOrderUDF, LogicalPlan, Projection, ScalarUDF, TableSource, Volatility, WindowUDF,
};
use datafusion::optimizer::analyzer::Analyzer;
use datafusion::optimizer::optimizer::{Optimizer, OptimizerContext};
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion::prelude::SessionConfig;
use datafusion::sql::planner::{ParserOptions, PlannerContext, SqlToRel};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is known of a relation beside its columns.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RelationTraits {
    /// Its deltas never take a row away.
    pub append_only: bool,
    /// Columns that identify a row; empty when none do.
    pub key: Vec<String>,
}

/// How a model's plan may be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlanForm {
    /// Canonical: by deltas, and in batch.
    Canonical,
    /// As it was optimised, in batch only: part of it cannot be kept by deltas.
    Whole,
}

/// One model, ready to be kept up to date ([`crate::Dataflow`]) or run in batch ([`crate::batch`]).
#[derive(Debug, Clone)]
pub struct ModelPlan {
    /// The model's name.
    pub name: Relation,
    /// The plan that both tempos run, or batch alone ([`ModelPlan::form`]).
    pub plan: LogicalPlan,
    /// How the plan may be run.
    pub form: PlanForm,
    /// Columns of the model: unique names, types that the lake keeps exactly, all nullable.
    pub schema: SchemaRef,
    /// The relations it reads, sorted, each once.
    pub reads: Vec<Relation>,
    /// Those of them whose deltas never take a row away.
    pub reads_growing: Vec<Relation>,
    /// Its deltas never take a row away.
    pub append_only: bool,
    /// Of the canonical plan: equal for texts that mean the same, as far as the planner can tell. 32 hexadecimal digits.
    pub fingerprint: String,
    /// Whether rows come and go with the clock.
    pub uses_now: bool,
}

/// Plans statements over the relations it was told of. Touches nothing outside.
pub struct Planner {
    state: SessionState,
    relations: BTreeMap<Relation, (SchemaRef, RelationTraits)>,
}

impl Planner {
    /// A planner without relations. `register` adds the functions beyond DataFusion's own.
    pub fn new(register: &dyn Fn(&mut dyn FunctionRegistry) -> DataFusionResult<()>) -> DataFusionResult<Self> {
        let mut state = SessionStateBuilder::new().with_default_features().with_config(session_config()).build();
        register(&mut state)?;
        Ok(Self { state, relations: BTreeMap::new() })
    }

    /// Makes a relation known, or replaces what is known of it.
    pub fn add_relation(&mut self, relation: Relation, schema: SchemaRef, traits: RelationTraits) {
        self.relations.insert(relation, (plain(&schema), traits));
    }

    /// Plans the model `name`. The error holds all mistakes that could be told.
    pub fn plan(&self, name: &str, sql: &str) -> Result<ModelPlan, PlanError> {
        self.plan_kept(name, sql).map_err(|mistake| {
            if beyond_deltas(&mistake) && self.plan_in_batch(name, sql).is_ok() {
                let hint = mistake.hint.as_ref().map(|hint| format!("{hint}; or ")).unwrap_or_default();
                return mistake.with_hint(format!("{hint}{WHOLE_HINT}"));
            }
            mistake
        })
    }

    /// Plans a model that is recomputed as a whole: where it cannot be kept by deltas, its plan is run in batch only
    /// ([`PlanForm::Whole`]). Its result depends on nothing but the contents of its inputs and the clock.
    pub fn plan_whole(&self, name: &str, sql: &str) -> Result<ModelPlan, PlanError> {
        match self.plan_kept(name, sql) {
            // A recomputation takes rows away.
            Ok(plan) => Ok(ModelPlan { append_only: false, ..plan }),
            Err(mistake) if beyond_deltas(&mistake) => self.plan_in_batch(name, sql),
            Err(mistake) => Err(mistake),
        }
    }

    fn plan_kept(&self, name: &str, sql: &str) -> Result<ModelPlan, PlanError> {
        let (raw, names) = self.read(sql)?;
        let optimised = self.optimise(raw).map_err(|e| self.mistake(e, sql))?;
        let canonical = canonical::canonicalise(&optimised).map_err(|e| self.refusal(e, sql))?;
        canonical::refuse_stray_reads(&canonical).map_err(|e| self.refusal(e, sql))?;
        let (plan, schema) = at_boundary(canonical, names).map_err(|e| self.refusal(e, sql))?;
        let references = canonical::relations_of(&plan).map_err(|e| self.mistake(e, sql))?;
        let grows = |relation: &str| self.relations.get(relation).is_some_and(|(_, traits)| traits.append_only);
        let append_only = rewrite::is_append_only(&plan, &grows);
        let reads: Vec<Relation> = references.iter().map(|r| Relation::from(r.to_string())).collect();
        rewrite::check(&plan).map_err(|error| {
            let why = match error {
                EngineError::Internal(why) => why,
                other => other.to_string(),
            };
            let message = format!("this query cannot be kept up to date: {why}");
            PlanError::new(PlanErrorKind::Unsupported, message)
        })?;
        Ok(ModelPlan {
            name: Relation::from(name),
            form: PlanForm::Canonical,
            fingerprint: rewrite::fingerprint(&plan),
            reads_growing: reads.iter().filter(|relation| grows(relation)).cloned().collect(),
            reads,
            uses_now: uses_now(&plan),
            plan,
            schema,
            append_only,
        })
    }

    fn plan_in_batch(&self, name: &str, sql: &str) -> Result<ModelPlan, PlanError> {
        let (raw, names) = self.read(sql)?;
        let optimised = self.optimise(raw).map_err(|e| self.mistake(e, sql))?;
        let (plan, schema) = at_boundary(optimised, names).map_err(|e| self.refusal(e, sql))?;
        whole::check(&plan)?;
        Ok(ModelPlan {
            name: Relation::from(name),
            form: PlanForm::Whole,
            fingerprint: rewrite::fingerprint(&plan),
            reads: whole::relations_of(&plan),
            reads_growing: Vec::new(),
            uses_now: uses_now(&plan),
            plan,
            schema,
            append_only: false,
        })
    }

    /// The query as DataFusion reads it, and the names of its columns. Chance is refused.
    fn read(&self, sql: &str) -> Result<(LogicalPlan, Vec<String>), PlanError> {
        let mut query = statement::single_query(sql).map_err(|e| self.mistake(e, sql))?;
        statement::check(&query)?;
        statement::mark_as_of_joins(&mut query)?;
        let raw = self
            .sql_to_rel(|planner| {
                let statement = datafusion::sql::sqlparser::ast::Statement::Query(query);
                planner.sql_statement_to_plan(statement)
            })
            .map_err(|e| self.mistake(e, sql))?;
        let names: Vec<String> = raw.schema().fields().iter().map(|f| f.name().clone()).collect();
        for (index, name) in names.iter().enumerate() {
            if names[..index].iter().any(|other| other.eq_ignore_ascii_case(name)) {
                return Err(PlanError::new(PlanErrorKind::Type, format!("two columns are named `{name}`"))
                    .with_hint(format!("rename one: `... AS {name}_2`")));
            }
        }
        self.refuse_chance(&raw, sql)?;
        let raw = canonical::with_special_nodes(raw).map_err(|e| self.mistake(e, sql))?;
        Ok((raw, names))
    }

    /// Plans an expression over one row of `schema` (for `where` and `[enrich]`). Clock and chance are refused.
    pub fn expression(&self, schema: &SchemaRef, sql: &str) -> Result<Arc<dyn PhysicalExpr>, PlanError> {
        let parsed = statement::expression(sql).map_err(|e| self.mistake(e, sql))?;
        let schema = DFSchema::try_from(plain(schema).as_ref().clone()).map_err(|e| self.mistake(e, sql))?;
        let logical = self
            .sql_to_rel(|planner| planner.sql_to_expr(parsed, &schema, &mut PlannerContext::new()))
            .map_err(|e| self.mistake(e, sql))?;
        if let Some(function) = clock_or_chance(&logical, true) {
            return Err(not_determined(&function).at(statement::find_call(sql, &function)));
        }
        let planned = (|| {
            let input = LogicalPlan::EmptyRelation(datafusion::logical_expr::EmptyRelation {
                produce_one_row: false,
                schema: Arc::new(schema.clone()),
            });
            let plan = LogicalPlan::Projection(Projection::try_new(vec![logical.alias("value")], Arc::new(input))?);
            let plan = Analyzer::new().execute_and_check(plan, &options(), |_, _| {})?;
            let simplifier = Arc::new(datafusion::optimizer::simplify_expressions::SimplifyExpressions::new());
            let plan = Optimizer::with_rules(vec![simplifier]).optimize(plan, &context(), |_, _| {})?;
            let Some(Expr::Alias(alias)) = plan.expressions().pop() else {
                return Err(DataFusionError::Internal("the expression went away".into()));
            };
            create_physical_expr(&alias.expr, &schema, &ExecutionProps::new(), &PhysicalPlanningContext::default())
        })();
        planned.map_err(|e| self.mistake(e, sql))
    }

    /// The functions of this planner, for sessions that answer ad-hoc queries.
    pub(crate) fn state(&self) -> &SessionState {
        &self.state
    }

    fn sql_to_rel<T>(
        &self,
        plan: impl FnOnce(&SqlToRel<'_, Catalog<'_>>) -> DataFusionResult<T>,
    ) -> DataFusionResult<T> {
        let catalog = Catalog { state: &self.state, relations: &self.relations };
        let options = ParserOptions::new().with_collect_spans(true).with_map_string_types_to_utf8view(false);
        plan(&SqlToRel::new_with_options(&catalog, options))
    }

    fn optimise(&self, raw: LogicalPlan) -> DataFusionResult<LogicalPlan> {
        let bound = subqueries::lift_out_of_aggregates(clock::bind_functions(raw)?)?;
        let analysed = Analyzer::new().execute_and_check(bound, &options(), |_, _| {})?;
        Optimizer::with_rules(rules()).optimize(analysed, &context(), |_, _| {})
    }

    fn refuse_chance(&self, plan: &LogicalPlan, sql: &str) -> Result<(), PlanError> {
        let mut found = None;
        let _ = plan.apply_with_subqueries(|node| {
            found = found.take().or_else(|| node.expressions().iter().find_map(|e| clock_or_chance(e, false)));
            Ok(if found.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
        });
        match found {
            Some(function) => Err(not_determined(&function).at(statement::find_call(sql, &function))),
            None => Ok(()),
        }
    }

    fn refusal(&self, refusal: Refusal, sql: &str) -> PlanError {
        match refusal {
            Refusal::Mistake(mistake) if mistake.kind == PlanErrorKind::NonDeterministic => {
                let place = ["now", "current_timestamp", "current_date"]
                    .into_iter()
                    .find_map(|function| statement::find_call(sql, function));
                mistake.at(place)
            }
            Refusal::Mistake(mistake) if mistake.line.is_none() => {
                let place = named_in(&mistake.message).into_iter().find_map(|word| statement::find_word(sql, word));
                mistake.at(place)
            }
            Refusal::Mistake(mistake) => *mistake,
            Refusal::Failed(error) => self.mistake(error, sql),
        }
    }

    fn mistake(&self, error: DataFusionError, sql: &str) -> PlanError {
        let functions = self.state.scalar_functions().keys().chain(self.state.aggregate_functions().keys());
        let names = Names {
            relations: self.relations.keys().map(|name| name.as_ref()).collect(),
            functions: functions.chain(self.state.window_functions().keys()).cloned().collect(),
        };
        let mut mistake = translate(&error, &names);
        if mistake.kind == PlanErrorKind::UnknownRelation && mistake.hint.is_none() {
            let known: Vec<&str> = names.relations.iter().copied().take(12).collect();
            mistake.hint = (!known.is_empty()).then(|| format!("there are: {}", known.join(", ")));
        }
        if mistake.line.is_none()
            && let Some(name) = mistake.message.split('`').nth(1)
        {
            mistake = mistake.clone().at(statement::find_word(sql, name));
        }
        mistake
    }
}

/// What plans and runs have in common. The session's own optimiser is not used.
pub(crate) fn session_config() -> SessionConfig {
    let mut config = SessionConfig::new().with_target_partitions(1).with_information_schema(true);
    *config.options_mut() = {
        let mut options = options();
        options.catalog.information_schema = true;
        options.execution.target_partitions = 1;
        options
    };
    config
}

fn options() -> ConfigOptions {
    let mut options = ConfigOptions::default();
    options.sql_parser.map_string_types_to_utf8view = false;
    options.sql_parser.collect_spans = true;
    options.optimizer.enable_physical_uncorrelated_scalar_subquery = false;
    options.optimizer.filter_null_join_keys = true;
    options.optimizer.skip_failed_rules = false;
    options.execution.parquet.schema_force_view_types = false;
    options.execution.skip_physical_aggregate_schema_check = true;
    options
}

/// Names that the optimiser invents start from one for each statement, so that equal texts give equal plans.
fn context() -> OptimizerContext {
    OptimizerContext::new_with_config_options(Arc::new(options()))
        .without_query_execution_start_time()
        .with_max_passes(4)
}

/// Rules that hold for any contents: none looks at statistics, none moves a limit.
fn rules() -> Vec<Arc<dyn datafusion::optimizer::OptimizerRule + Send + Sync>> {
    use datafusion::optimizer::*;
    vec![
        Arc::new(rewrite_set_comparison::RewriteSetComparison::new()),
        Arc::new(optimize_unions::OptimizeUnions::new()),
        Arc::new(simplify_expressions::SimplifyExpressions::new()),
        Arc::new(eliminate_join::EliminateJoin::new()),
        Arc::new(decorrelate_predicate_subquery::DecorrelatePredicateSubquery::new()),
        Arc::new(scalar_subquery_to_join::ScalarSubqueryToJoin::new()),
        Arc::new(decorrelate_lateral_join::DecorrelateLateralJoin::new()),
        Arc::new(extract_equijoin_predicate::ExtractEquijoinPredicate::new()),
        Arc::new(eliminate_duplicated_expr::EliminateDuplicatedExpr::new()),
        Arc::new(eliminate_filter::EliminateFilter::new()),
        Arc::new(eliminate_cross_join::EliminateCrossJoin::new()),
        Arc::new(propagate_empty_relation::PropagateEmptyRelation::new()),
        Arc::new(filter_null_join_keys::FilterNullJoinKeys::default()),
        Arc::new(eliminate_outer_join::EliminateOuterJoin::new()),
        Arc::new(push_down_filter::PushDownFilter::new()),
        Arc::new(optimize_projections::OptimizeProjections::new()),
    ]
}

/// The plan with its conditions as near to the scans as they can be; as it is where that fails.
pub(crate) fn push_down_filters(plan: LogicalPlan) -> LogicalPlan {
    let rule = Arc::new(datafusion::optimizer::push_down_filter::PushDownFilter::new());
    let pushed = Optimizer::with_rules(vec![rule]).optimize(plan.clone(), &context(), |_, _| {});
    pushed.unwrap_or(plan)
}

/// Words of a message that may stand in the query as they are: SQL in capitals and names of functions, the longest first.
fn named_in(message: &str) -> Vec<&str> {
    let words = message.split(|c: char| !(c.is_alphanumeric() || c == '_'));
    let quoted = |word: &&str| word.contains('_') || (word.len() > 1 && !word.chars().any(char::is_lowercase));
    let mut words: Vec<&str> = words.filter(quoted).collect();
    words.sort_by_key(|word| std::cmp::Reverse(word.len()));
    words
}

/// The way out for models that cannot be kept by deltas.
const WHOLE_HINT: &str = "have it recomputed as a whole: `-- weir: refresh = \"full\"`";

/// Whether a query may be sound, and only its upkeep by deltas is refused.
fn beyond_deltas(mistake: &PlanError) -> bool {
    matches!(mistake.kind, PlanErrorKind::Unsupported | PlanErrorKind::NonDeterministic)
}

fn uses_now(plan: &LogicalPlan) -> bool {
    let mut uses_now = false;
    // The closure never fails.
    let _ = plan.apply_with_subqueries(|node| {
        uses_now |= node.expressions().iter().any(clock::reads_clock);
        Ok(TreeNodeRecursion::Continue)
    });
    uses_now
}

/// Casts to the types of the lake, and names the columns as the query does.
fn at_boundary(plan: LogicalPlan, names: Vec<String>) -> Result<(LogicalPlan, SchemaRef), Refusal> {
    let mut columns = Vec::with_capacity(names.len());
    let mut fields = Vec::with_capacity(names.len());
    for ((qualifier, field), name) in plan.schema().iter().zip(&names) {
        let Some(lake) = lake_type(field.data_type()) else {
            let hint = match field.data_type() {
                DataType::Null => format!("say its type: `CAST(NULL AS TEXT) AS {name}`"),
                DataType::Interval(_) | DataType::Duration(_) => {
                    format!("keep seconds: `extract(epoch FROM ...) AS {name}`")
                }
                _ => format!("cast it: `CAST(... AS TEXT) AS {name}`"),
            };
            let message = format!("column `{name}` is of type {}, which the lake does not keep", field.data_type());
            return Err(Refusal::Mistake(Box::new(PlanError::new(PlanErrorKind::Type, message).with_hint(hint))));
        };
        fields.push(Field::new(name, lake.clone(), true));
        let value = Expr::Column(datafusion::common::Column::from((qualifier, field)));
        let same = lake == *field.data_type();
        columns.push((if same { value } else { datafusion::logical_expr::cast(value, lake) }, name.clone()));
    }
    Ok((canonical::project(plan, columns)?, Arc::new(Schema::new(fields))))
}

/// The first function that depends on chance, or (with `clock`) on the clock.
fn clock_or_chance(expression: &Expr, clock: bool) -> Option<String> {
    let mut found = None;
    let _ = expression.apply(|e| {
        if let Expr::ScalarFunction(call) = e {
            let name = call.func.name();
            let clocked = matches!(name, "now" | "current_date" | "today");
            let chance = call.func.signature().volatility == Volatility::Volatile || name == "current_time";
            if chance || (clock && clocked) {
                found = Some(name.to_owned());
                return Ok(TreeNodeRecursion::Stop);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found
}

fn not_determined(function: &str) -> PlanError {
    PlanError::new(
        PlanErrorKind::NonDeterministic,
        format!("{function}() gives another value each time, so that the result could not be computed again"),
    )
    .with_hint("use a column of the record: its time, its id, or a hash of it")
}

/// The schema without metadata.
fn plain(schema: &SchemaRef) -> SchemaRef {
    let fields: Vec<Field> =
        schema.fields().iter().map(|f| Field::new(f.name(), f.data_type().clone(), f.is_nullable())).collect();
    Arc::new(Schema::new(fields))
}

/// A relation that a plan may read; it has columns only.
#[derive(Debug)]
pub(crate) struct RelationSource(SchemaRef);

impl RelationSource {
    /// A relation of these columns.
    pub fn new(schema: SchemaRef) -> Self {
        Self(schema)
    }
}

impl TableSource for RelationSource {
    fn schema(&self) -> SchemaRef {
        self.0.clone()
    }
}

/// What SQL names resolve to.
struct Catalog<'a> {
    state: &'a SessionState,
    relations: &'a BTreeMap<Relation, (SchemaRef, RelationTraits)>,
}

impl ContextProvider for Catalog<'_> {
    fn get_table_source(&self, name: TableReference) -> DataFusionResult<Arc<dyn TableSource>> {
        let name = name.to_string();
        match self.relations.get(name.as_str()) {
            Some((schema, _)) => Ok(Arc::new(RelationSource(schema.clone()))),
            None => Err(DataFusionError::Plan(format!("table '{name}' not found"))),
        }
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        self.state.expr_planners()
    }

    fn create_cte_work_table(&self, _name: &str, schema: SchemaRef) -> DataFusionResult<Arc<dyn TableSource>> {
        Ok(Arc::new(WorkTable(schema)))
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        if name == as_of::MARKER {
            return Some(as_of::marker());
        }
        self.state.scalar_functions().get(name).cloned()
    }

    fn get_higher_order_meta(&self, name: &str) -> Option<Arc<HigherOrderUDF>> {
        self.state.higher_order_functions().get(name).cloned()
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        self.state.aggregate_functions().get(name).cloned()
    }

    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        self.state.window_functions().get(name).cloned()
    }

    fn get_variable_type(&self, _names: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        self.state.config_options()
    }

    fn udf_names(&self) -> Vec<String> {
        self.state.scalar_functions().keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        self.state.higher_order_functions().keys().cloned().collect()
    }

    fn udaf_names(&self) -> Vec<String> {
        self.state.aggregate_functions().keys().cloned().collect()
    }

    fn udwf_names(&self) -> Vec<String> {
        self.state.window_functions().keys().cloned().collect()
    }
}
