// How jobs come to a ThreadPool: at once, or when what they wait for is there.
#include <fmt/format.h>

#include <memory>
#include <stdexcept>
#include <utility>

#include <sidestep/detail/late_job.hpp>

#include "spare_errors.hpp"
#include "sys/sys.hpp"
#include "task/record_memory.hpp"
#include "thread_pool_core.hpp"

namespace sidestep::inline v0::detail {
namespace {

constexpr std::uint64_t kTinyJobsForOne = 16;  // see PoolStats::wait

}  // namespace

void ThreadPoolCore::set_options(ThreadJob& job, const TaskOptions* options) const {
    if (options) check_thread_options(*options);
    if ((options && options->says_anything()) || has_defaults_) {
        job.extra = std::make_unique<JobExtra>();
        job.extra->options = options ? merged(*options, state_.options.task) : state_.options.task;
    }
    if (!job.runs_again()) refuse_retries(state_.options_of(job).retry);
}

void ThreadPoolCore::submit(ThreadJobPtr job, const TaskOptions* options, bool begun) {
    set_options(*job, options);
    state_.owner.require_here();
    const bool never_waits = state_.options.max_pending == 0 || begun || in_own_thread();
    if (!team_.all_tiny()) job->submitted_at = sys::Clock::now();
    Lock lock(state_.mutex);
    state_.life.require_accepting(begun);
    if (!never_waits) await_room();
    accept(*job);
    team_.put(std::move(job));
}

void ThreadPoolCore::accept(ThreadJob& job) {
    job.belong_to(state_.owner.pid());
    job.pool = state_.number;
    JobCounts& jobs = state_.jobs;
    job.number = jobs.next_number;
    if (team_.all_tiny() && job.number % kTinyJobsForOne == 0) job.submitted_at = sys::Clock::now();
    if (job.extra) prepare(job);
    const std::uint64_t key = state_.options_of(job).key;
    team_.require(key ? state_.index_of(key) + 1 : 1);  // it must be that one, or somebody
    ++jobs.next_number;
    ++jobs.unfinished;
}

// What running it takes, and may not be had when it is to run: then submit() throws.
void ThreadPoolCore::prepare(ThreadJob& job) {
    JobExtra& extra = *job.extra;
    KeyedJobs one;
    one.emplace();
    extra.place = one.extract(one.begin());
    extra.tokens = queue_.wanted(extra.options.uses);
    if (extra.tokens) {  // who cancels it lets others go on
        std::function<void()> look = [pool = weak_from_this()] {
            if (std::shared_ptr<ThreadPoolCore> core = pool.lock()) core->team_.look_at_gate();
        };
        (void)job.add_callback(look);
    }
    clock_.prepare(job);
}

// --- those that wait ---------------------------------------------------------------------------

// It has an `extra` in any case: when it is queued, others that came later may wait before it.
void ThreadPoolCore::submit_late(ThreadJobPtr job, std::vector<TaskRef> needs,
                                 const TaskOptions* options) {
    set_options(*job, options);
    if (!job->extra) job->extra = std::make_unique<JobExtra>();
    state_.owner.require_here();
    const bool never_waits = state_.options.max_pending == 0 || in_own_thread();
    LateJobs::Place place = late_.make_place(std::move(needs), *job);
    std::shared_ptr<Dependents::Waiting> waiting;
    {
        Lock lock(state_.mutex);
        state_.life.require_accepting();
        if (!never_waits) await_room();
        accept(*job);
        waiting = late_.add(std::move(place), std::move(job));
    }
    late_.wait_for_needs(waiting);
}

void ThreadPoolCore::be_destroyed() {
    close();
    Lock lock(state_.mutex);
    state_.life.be_destroyed();
    state_.quiet.notify_all();  // a thread may be in join() already (join_until)
}

void submit_job(ThreadPoolCore& core, ThreadJobPtr job, const TaskOptions* options, bool begun) {
    core.submit(std::move(job), options, begun);
}
void check_open(ThreadPoolCore& core) { core.check_open(); }
void check_map(ThreadPoolCore& core, const MapOptions& options) {
    core.check_open();
    check_map_options(options);
    core.check_tokens(options.task);
}
std::shared_ptr<void> take_place(const std::shared_ptr<ThreadPoolCore>& core) {
    return ThreadPoolCore::take_place(core);
}
const TaskOptions& default_options(const ThreadPoolCore& core) { return core.default_options(); }

void submit_late_job(const std::shared_ptr<ThreadPoolCore>& core, ThreadJobPtr job,
                     std::vector<TaskRef> needs, const TaskOptions* options) {
    core->submit_late(std::move(job), std::move(needs), options);
}

}  // namespace sidestep::detail
