#include "threads/job_intake.hpp"

#include <cstdint>
#include <utility>

#include "place.hpp"
#include "sys/sys.hpp"
#include "threads/thread_options.hpp"

namespace sidestep::inline v0::detail {
namespace {

constexpr std::uint64_t kTinyJobsForOne = 16;  // see PoolStats::wait

}  // namespace

void JobIntake::check_open() {
    pool_.state.owner.require_here();
    Lock lock(pool_.state.mutex);
    pool_.state.life.require_accepting();
}

bool JobIntake::needs_place() {
    pool_.state.owner.require_here();
    return pool_.state.options.max_pending != 0 && !pool_.ending.in_own_thread();
}

bool JobIntake::take_place() {
    Lock lock(pool_.state.mutex);
    if (is_full() && pool_.state.life.running()) return false;
    ++places_taken_;  // of a pool that is closed, too: submit() says why
    return true;
}

void JobIntake::give_place_back() {
    if (!pool_.state.owner.is_here()) return;
    Lock lock(pool_.state.mutex);
    --places_taken_;
    pool_.state.quiet.notify_all();
}

// Not in the pool's own threads, which may be those that make room.
void JobIntake::await_room() {
    while (is_full() && !Place<JobIntake>::is_here(*this)) {
        pool_.state.quiet.wait(pool_.state.mutex);
        pool_.state.life.require_accepting();
    }
}

void JobIntake::begin_map() {
    pool_.state.owner.require_here();
    Lock lock(pool_.state.mutex);
    pool_.state.life.begin_map();
}

void JobIntake::end_map() {
    if (!pool_.state.owner.is_here()) return;
    Lock lock(pool_.state.mutex);
    (void)pool_.state.life.end_map();
    pool_.state.quiet.notify_all();
}

void JobIntake::set_options(ThreadJob& job, const TaskOptions* options) const {
    const TaskOptions& defaults = pool_.state.options.task;
    if (options) check_thread_options(*options);
    if ((options && options->says_anything()) || has_defaults_) {
        job.extra = std::make_unique<JobExtra>();
        job.extra->options = options ? merged(*options, defaults) : defaults;
    }
    if (!job.runs_again()) refuse_retries(pool_.state.options_of(job).retry);
}

void JobIntake::submit(ThreadJobPtr&& job, const TaskOptions* options, bool begun) {
    ThreadPoolState& state = pool_.state;
    set_options(*job, options);
    state.owner.require_here();
    const bool never_waits =
        state.options.max_pending == 0 || begun || pool_.ending.in_own_thread();
    if (!pool_.team.all_tiny()) job->submitted_at = sys::Clock::now();
    Lock lock(state.mutex);
    state.life.require_accepting(begun);
    if (!never_waits) await_room();
    accept(*job);
    pool_.team.put(std::move(job));
}

void JobIntake::accept(ThreadJob& job) {
    ThreadPoolState& state = pool_.state;
    job.belong_to(state.owner.generation());
    job.pool = state.number;
    job.number = state.jobs.next_number;
    if (pool_.team.all_tiny() && job.number % kTinyJobsForOne == 0)
        job.submitted_at = sys::Clock::now();
    if (job.extra) prepare(job);
    const std::uint64_t key = state.options_of(job).key;
    pool_.team.require(key ? state.index_of(key) + 1 : 1);  // it must be that one, or somebody
    ++state.jobs.next_number;
    ++state.jobs.unfinished;
}

// What running it takes, and may not be had when it is to run: then submit() throws.
void JobIntake::prepare(ThreadJob& job) {
    pool_.queue.prepare(*job.extra);
    if (job.extra->tokens) {  // who cancels it lets others go on
        std::function<void()> look = [of_pool = team_()] {
            if (std::shared_ptr<ThreadTeam> team = of_pool.lock()) team->look_at_gate();
        };
        (void)job.add_callback(look);
    }
    pool_.clock.prepare(job);
}

// It has an `extra` in any case: when it is put into the queue, others that came later may be there
// before it.
void JobIntake::submit_late(ThreadJobPtr job, std::vector<TaskRef> needs,
                            const TaskOptions* options, bool begun) {
    ThreadPoolState& state = pool_.state;
    set_options(*job, options);
    if (!job->extra) job->extra = std::make_unique<JobExtra>();
    state.owner.require_here();
    const bool never_waits =
        state.options.max_pending == 0 || begun || pool_.ending.in_own_thread();
    LateJobs::Place place = pool_.late.make_place(std::move(needs), *job);
    std::shared_ptr<Dependents::Waiting> waiting;
    {
        Lock lock(state.mutex);
        state.life.require_accepting(begun);
        if (!never_waits) await_room();
        accept(*job);
        waiting = pool_.late.add(std::move(place), std::move(job));
    }
    pool_.late.wait_for_needs(waiting);
}

}  // namespace sidestep::detail
