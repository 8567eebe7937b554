//! Questions of the clients, and what must be true of every answer.

use std::sync::PoisonError;

use merganser_proto::v1::{BatchGetUserStatsRequest, Consistency, GetUserStatsRequest, Provenance, UserStats};
use tokio::time::{sleep, timeout};
use tonic::{Response, Status};

use super::clients::{Clients, Outcome, PATIENCE, check_error, user_id};
use super::oracle::{Asked, Oracle};

impl Clients {
    /// Asks so many questions.
    pub(crate) async fn ask(&self, questions: usize) -> Outcome {
        for _ in 0..questions {
            sleep(self.world.chance.micros(self.world.chance.pick(&[15_000, 150_000]))).await;
            let consistency = match self.world.chance.below(8) {
                0 => Consistency::BestEffort,
                1 => Consistency::BatchOnly,
                _ => Consistency::Fresh,
            };
            if self.world.chance.happens(150) {
                let users: Vec<usize> = (0..self.users).collect();
                self.question_many(&users, consistency).await?;
            } else {
                self.question(self.world.chance.below(self.users), consistency, false).await?;
            }
        }
        Ok(())
    }

    /// Asks about one user; whether an answer came.
    pub(crate) async fn question(&self, user: usize, consistency: Consistency, covered: bool) -> Result<bool, String> {
        let (asked, min_position) = self.about_to_ask();
        let request =
            GetUserStatsRequest { user_id: user_id(user), consistency: consistency.into(), min_position, ..GetUserStatsRequest::default() };
        let (response, apart) = self.answer(&[user], self.stats.clone().get_user_stats(request)).await?;
        let Some(response) = response else { return Ok(false) };
        let (Some(stats), Some(provenance)) = (response.stats, response.provenance) else {
            return Err("an answer without stats or provenance".to_owned());
        };
        check_reason(&provenance, consistency, apart)?;
        self.boundaries.check(&provenance)?;
        self.judge(user, &asked, &stats, &provenance, consistency, covered)?;
        self.check_halves(&[stats], &provenance)?;
        Ok(true)
    }

    /// What a call about `users` is answered, if it is, and whether the halves were apart all the while.
    async fn answer<T>(
        &self,
        users: &[usize],
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<(Option<T>, bool), String> {
        let cut = self.cut_between();
        let under_way = self.world.weather.under_way();
        let answered = timeout(PATIENCE, Box::pin(call)).await;
        drop(under_way);
        let apart = cut.is_some() && cut == self.cut_between();
        match answered {
            Ok(Ok(response)) => return Ok((Some(response.into_inner()), apart)),
            Ok(Err(status)) => {
                check_error(&status)?;
                self.world.trace.note(|| format!("no answer about {users:?}: {}", status.message()));
            }
            Err(_) => {}
        }
        self.count(|r| r.unanswered += 1);
        self.count(|r| r.refused_apart += u64::from(apart));
        Ok((None, apart))
    }

    /// What keeps the serving layer from the speed layer, on a network or a link.
    fn cut_between(&self) -> Option<u64> {
        self.between.cut().or_else(|| self.world.between.cut_there_is())
    }

    /// What is known, and now and then the position of the newest acknowledgement, all of which a complete answer then counts.
    fn about_to_ask(&self) -> (Asked, String) {
        let at = self.oracle(Oracle::now);
        let (position, promised) = self.newest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match self.world.chance.happens(300) {
            true => (Asked { at, promised }, position),
            false => (Asked { at, promised: Vec::new() }, String::new()),
        }
    }

    async fn question_many(&self, users: &[usize], consistency: Consistency) -> Outcome {
        let (asked, min_position) = self.about_to_ask();
        let request = BatchGetUserStatsRequest {
            user_ids: users.iter().map(|user| user_id(*user)).collect(),
            consistency: consistency.into(),
            min_position,
            ..BatchGetUserStatsRequest::default()
        };
        let (response, apart) = self.answer(users, self.stats.clone().batch_get_user_stats(request)).await?;
        let Some(response) = response else { return Ok(()) };
        let Some(provenance) = response.provenance else { return Err("an answer without provenance".to_owned()) };
        if response.stats.len() != users.len() {
            return Err(format!("{} answers to {} questions", response.stats.len(), users.len()));
        }
        check_reason(&provenance, consistency, apart)?;
        self.boundaries.check(&provenance)?;
        for (user, stats) in users.iter().zip(&response.stats) {
            self.judge(*user, &asked, stats, &provenance, consistency, false)?;
        }
        self.check_halves(&response.stats, &provenance)
    }

    fn judge(
        &self,
        user: usize,
        asked: &Asked,
        stats: &UserStats,
        provenance: &Provenance,
        consistency: Consistency,
        covered: bool,
    ) -> Outcome {
        // One that is not complete says so instead.
        let asked = if provenance.complete { asked } else { &Asked { at: asked.at, promised: Vec::new() } };
        let may_lack = !provenance.complete || (consistency == Consistency::BatchOnly && !covered);
        if consistency == Consistency::Fresh && !provenance.complete {
            return Err(format!("a FRESH answer is incomplete: {}", provenance.incomplete_reason));
        }
        self.count(|r| r.incomplete += u64::from(!provenance.complete));
        let sum = whole_number(&stats.revenue)?;
        self.world.trace.note(|| format!("answer about {user}: {} events, {sum}, v{}", stats.event_count, provenance.version));
        self.oracle(|o| o.judge(user, asked, stats.event_count, sum, may_lack, covered))
            .map_err(|e| format!("{e}; {consistency:?}, covered {covered}, {provenance:?}"))?;
        if consistency == Consistency::BatchOnly {
            self.oracle(|o| o.judge_version(user, provenance.version, sum))?;
        }
        self.count(|r| r.answers += 1);
        self.world.weather.recovered();
        Ok(())
    }

    /// The halves add up to the whole.
    fn check_halves(&self, stats: &[UserStats], provenance: &Provenance) -> Outcome {
        let whole: i64 = stats.iter().map(|s| s.event_count).sum();
        let (batch, speed) = (provenance.batch_event_count, provenance.speed_event_count);
        if batch > 0 && speed > 0 {
            self.count(|r| r.merged += 1);
        }
        if batch + speed == whole { Ok(()) } else { Err(format!("{batch} + {speed} events are {whole}: {provenance:?}")) }
    }
}

/// An answer that lacks something says why, and one that was given while the halves were apart says that it lacks something.
fn check_reason(provenance: &Provenance, consistency: Consistency, apart: bool) -> Outcome {
    if !provenance.complete && provenance.incomplete_reason.is_empty() {
        return Err(format!("an incomplete answer does not say why: {provenance:?}"));
    }
    if apart && provenance.complete && consistency != Consistency::BatchOnly {
        return Err(format!("a {consistency:?} answer is complete, though the speed layer could not be reached: {provenance:?}"));
    }
    Ok(())
}

/// `"17.0000"` is 17; nothing is 0.
fn whole_number(revenue: &str) -> Result<i64, String> {
    let whole = revenue.split_once('.').map_or(revenue, |(whole, _)| whole);
    if whole.is_empty() { Ok(0) } else { whole.parse().map_err(|e| format!("revenue {revenue:?}: {e}")) }
}
