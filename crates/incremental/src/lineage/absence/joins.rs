//! Joins that lose rows: which side lacks what the other asks for, and why.

use super::super::LineageError;
use super::super::pairs::Side;
use super::{Fate, Lost, SHOWN_MAX, Step, Walk, Wanted, equality, is_within, shown, sources_of};
use crate::planner::ModelPlan;
use arrow::array::RecordBatch;
use datafusion::common::{JoinType, ScalarValue};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, Join, LogicalPlan};

impl<'a> Walk<'a> {
    pub(super) async fn joined(
        &self,
        model: &'a ModelPlan,
        join: &'a Join,
        wanted: Wanted,
    ) -> Result<Vec<Fate>, LineageError> {
        let (left, right): (&LogicalPlan, &LogicalPlan) = (&join.left, &join.right);
        let (left_width, right_width) = (left.schema().fields().len(), right.schema().fields().len());
        let (of_left, rest): (Wanted, Wanted) =
            wanted.into_iter().partition(|(e, _)| is_within(e, left.schema(), 0..left_width));
        let (of_right, mixed): (Wanted, Wanted) =
            rest.into_iter().partition(|(e, _)| is_within(e, right.schema(), 0..right_width));
        match join.join_type {
            JoinType::LeftSemi | JoinType::LeftMark => {
                self.tested(model, join, Side::Left, of_left, Step::Exists).await
            }
            JoinType::LeftAnti => self.tested(model, join, Side::Left, of_left, Step::NotExists).await,
            JoinType::RightSemi | JoinType::RightMark => {
                self.tested(model, join, Side::Right, of_right, Step::Exists).await
            }
            JoinType::RightAnti => self.tested(model, join, Side::Right, of_right, Step::NotExists).await,
            JoinType::Inner => self.inner(model, join, of_left, of_right).await,
            JoinType::Left => self.outer(model, join, Side::Left, of_left, of_right, &mixed).await,
            JoinType::Right => self.outer(model, join, Side::Right, of_right, of_left, &mixed).await,
            JoinType::Full if of_left.is_empty() => {
                self.outer(model, join, Side::Right, of_right, of_left, &mixed).await
            }
            JoinType::Full => self.outer(model, join, Side::Left, of_left, of_right, &mixed).await,
        }
    }

    /// Semi and anti joins: rows of one side, tested against the other.
    async fn tested(
        &self,
        model: &'a ModelPlan,
        join: &'a Join,
        from: Side,
        wanted: Wanted,
        step: Step,
    ) -> Result<Vec<Fate>, LineageError> {
        let (own, other) = from.of(join);
        let reaching = self.sample(model, own, &wanted).await?;
        if reaching.num_rows() == 0 {
            return self.walk(model, own, wanted).await;
        }
        if step == Step::Exists {
            return self.without_partner(model, join, from, step, reaching).await;
        }
        let (left, right) = self.asking(model).matches(join, from, &reaching).await?;
        let against = if from == Side::Left { right } else { left };
        let lost = Lost {
            asks: join_conditions(join),
            other: sources_of(other)?,
            against: Some(against.slice(0, against.num_rows().min(SHOWN_MAX))),
            ..Self::lost(model, step, reaching)
        };
        Ok(vec![Fate::Lost(Box::new(lost))])
    }

    async fn inner(
        &self,
        model: &'a ModelPlan,
        join: &'a Join,
        of_left: Wanted,
        of_right: Wanted,
    ) -> Result<Vec<Fate>, LineageError> {
        let (mut left, mut right) = (of_left.clone(), of_right.clone());
        for pair in &join.on {
            carry(&of_left, &mut right, Side::Left.key(pair));
            carry(&of_right, &mut left, Side::Right.key(pair));
        }
        let left_rows = self.sample(model, &join.left, &left).await?;
        let right_rows = self.sample(model, &join.right, &right).await?;
        let (in_left, in_right) = (left_rows.num_rows() > 0, right_rows.num_rows() > 0);
        match (in_left, in_right) {
            (false, true) if !right.is_empty() => {
                let because = self.walk(model, &join.left, left).await?;
                Ok(vec![self.no_partner(model, join, Side::Right, right_rows, because)?])
            }
            (false, false) => {
                let mut fates = self.walk(model, &join.left, left).await?;
                if !right.is_empty() {
                    fates.extend(self.walk(model, &join.right, right).await?);
                }
                Ok(fates)
            }
            (false, true) => self.walk(model, &join.left, left).await,
            (true, false) if left.is_empty() => self.walk(model, &join.right, right).await,
            (true, false) => {
                let because = self.walk(model, &join.right, right).await?;
                Ok(vec![self.no_partner(model, join, Side::Left, left_rows, because)?])
            }
            (true, true) if left.is_empty() => {
                self.without_partner(model, join, Side::Right, Step::Join, right_rows).await
            }
            (true, true) => self.without_partner(model, join, Side::Left, Step::Join, left_rows).await,
        }
    }

    fn no_partner(
        &self,
        model: &ModelPlan,
        join: &Join,
        from: Side,
        reaching: RecordBatch,
        because: Vec<Fate>,
    ) -> Result<Fate, LineageError> {
        let other = sources_of(from.of(join).1)?;
        let asks = join_conditions(join);
        Ok(Fate::Lost(Box::new(Lost { asks, other, because, ..Self::lost(model, Step::Join, reaching) })))
    }

    /// Rows of one side for which the other has none that matches: for want of the key, or since a condition does not hold.
    async fn without_partner(
        &self,
        model: &'a ModelPlan,
        join: &'a Join,
        from: Side,
        step: Step,
        reaching: RecordBatch,
    ) -> Result<Vec<Fate>, LineageError> {
        let (own, other) = from.of(join);
        let mut keys: Wanted = Vec::new();
        for pair in &join.on {
            let (mine, theirs) = from.key(pair);
            let place = mine.try_as_col().and_then(|c| own.schema().index_of_column(c).ok());
            if let Some(place) = place {
                keys.push((theirs.clone(), ScalarValue::try_from_array(reaching.column(place), 0)?));
            }
        }
        let mut lost =
            Lost { asks: join_conditions(join), other: sources_of(other)?, ..Self::lost(model, step, reaching) };
        let equal_to_nothing = keys.iter().any(|(_, value)| value.is_null());
        if !equal_to_nothing && self.sample(model, other, &keys).await?.num_rows() == 0 {
            lost.because = self.walk(model, other, keys).await?;
        }
        Ok(vec![Fate::Lost(Box::new(lost))])
    }

    /// Outer joins, of which `from` is the side whose rows all stay (of FULL, the side that is asked for).
    async fn outer(
        &self,
        model: &'a ModelPlan,
        join: &'a Join,
        from: Side,
        of_own: Wanted,
        of_other: Wanted,
        mixed: &Wanted,
    ) -> Result<Vec<Fate>, LineageError> {
        let (own, other) = from.of(join);
        let reaching = self.sample(model, own, &of_own).await?;
        if reaching.num_rows() == 0 {
            return self.walk(model, own, of_own).await;
        }
        if of_own.is_empty() && !of_other.is_empty() {
            // The values are the other side's alone.
            let there = self.sample(model, other, &of_other).await?;
            if there.num_rows() == 0 {
                return self.walk(model, other, of_other).await;
            }
            let back = if from == Side::Left { Side::Right } else { Side::Left };
            return self.without_partner(model, join, back, Step::Join, there).await;
        }
        // The row is there, with NULLs or with another partner.
        let asks = of_other.iter().chain(mixed).map(equality).collect();
        let mut keys = of_other;
        for pair in &join.on {
            carry(&of_own, &mut keys, from.key(pair));
        }
        let because = match self.sample(model, other, &keys).await?.num_rows() {
            0 => self.walk(model, other, keys).await?,
            _ => Vec::new(),
        };
        let other = sources_of(other)?;
        Ok(vec![Fate::Lost(Box::new(Lost { asks, other, because, ..Self::lost(model, Step::Join, reaching) }))])
    }
}

/// Carries what is asked of one key of an equality over to the other.
fn carry(from: &Wanted, to: &mut Wanted, (mine, theirs): (&Expr, &Expr)) {
    if let Some((_, value)) = from.iter().find(|(e, _)| e == mine)
        && !to.iter().any(|(e, _)| e == theirs)
    {
        to.push((theirs.clone(), value.clone()));
    }
}

fn join_conditions(join: &Join) -> Vec<String> {
    let equal = join.on.iter().map(|(left, right)| shown(&left.clone().eq(right.clone())));
    equal.chain(join.filter.iter().flat_map(|filter| split_conjunction(filter)).map(shown)).collect()
}
