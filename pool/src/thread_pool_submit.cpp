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
#include "thread_pool_late.hpp"

namespace sidestep::inline v0::detail {
namespace {

constexpr std::uint64_t kTinyJobsForOne = 16;  // see PoolStats::wait

}  // namespace

void ThreadPoolCore::set_options(ThreadJob& job, const TaskOptions* options) const {
    if (options) check_thread_options(*options);
    if ((options && options->says_anything()) || has_defaults_) {
        job.extra = std::make_unique<JobExtra>();
        job.extra->options = options ? merged(*options, options_.task) : options_.task;
    }
    if (!job.runs_again()) refuse_retries(options_of(job).retry);
}

void ThreadPoolCore::submit(ThreadJobPtr job, const TaskOptions* options, bool begun) {
    set_options(*job, options);
    owner_.require_here();
    const bool never_waits = options_.max_pending == 0 || begun || in_own_thread();
    if (!all_tiny()) job->submitted_at = sys::Clock::now();
    Lock lock(mutex_);
    life_.require_accepting(begun);
    if (!never_waits) await_room();
    accept(*job);
    queue(std::move(job));
}

void ThreadPoolCore::accept(ThreadJob& job) {
    job.belong_to(owner_.pid());
    job.pool = number_;
    job.number = next_number_;
    if (all_tiny() && job.number % kTinyJobsForOne == 0) job.submitted_at = sys::Clock::now();
    if (job.extra) prepare(job);
    if (std::uint64_t sticky = options_of(job).key)
        while (workers_.size() <= sticky % most_threads()) start_thread();  // it must be that one
    else if (workers_.empty())
        start_thread();  // or nobody would run it
    ++next_number_;
    ++unfinished_;
}

void ThreadPoolCore::queue(ThreadJobPtr job) noexcept {
    if (!job->extra) {
        plain_.push(std::move(job));
        if (somebody_spins_) arrivals_.fetch_add(1, std::memory_order_relaxed);
        return help_if_needed();
    }
    take_back_all();  // who has a batch may have to run this one first
    if (job->extra->tokens) return wait_at_gate(std::move(job));
    const std::uint64_t sticky = job->extra->options.key;
    KeyedJobs::node_type place = std::move(job->extra->place);
    place.key() = {-job->extra->options.priority, job->number};
    place.mapped() = std::move(job);
    if (sticky) {
        PoolThread& thread = *workers_[sticky % most_threads()];
        thread.own.insert(std::move(place));
        ++keyed_;
        return wake(thread);
    }
    waiting_.insert(std::move(place));
    help_if_needed();
    wake_all_if_extra();
}

// --- tokens ------------------------------------------------------------------------------------

void ThreadPoolCore::wait_at_gate(ThreadJobPtr job) noexcept {
    TokenUse& use = *job->extra->tokens;
    use.priority = job->extra->options.priority;
    use.number = job->number;
    if (std::uint64_t sticky = job->extra->options.key)
        use.worker = static_cast<std::uint32_t>(sticky % most_threads());
    use.over = job.get();
    KeyedJobs::node_type place = std::move(job->extra->place);
    place.key() = key_of(use);
    place.mapped() = std::move(job);
    at_gate_.insert(std::move(place));
    tokens_.wait(use);
    help_if_needed();
    wake_all();
}

TokenUse* ThreadPoolCore::first_at_gate(unsigned index) noexcept {
    TokenUse* own = tokens_.first(index);
    TokenUse* other = tokens_.first(TokenUse::kAnyWorker);
    if (own && other) return own->comes_before(*other) ? own : other;
    return own ? own : other;
}

void ThreadPoolCore::free_tokens(TokenUse& use) noexcept {
    Lock lock(mutex_);
    tokens_.give_back(use);
    if (!at_gate_.empty()) wake_all();
}

void ThreadPoolCore::look_at_gate() {
    if (!owned_here()) return;
    Lock lock(mutex_);
    help_if_needed();
    wake_all();
}

// What running it takes, and may not be had when it is to run: then submit() throws.
void ThreadPoolCore::prepare(ThreadJob& job) {
    JobExtra& extra = *job.extra;
    KeyedJobs one;
    one.emplace();
    extra.place = one.extract(one.begin());
    extra.tokens = tokens_.wanted(extra.options.uses);
    if (extra.tokens) {  // who cancels it lets others go on
        std::function<void()> look = [pool = weak_from_this()] {
            if (std::shared_ptr<ThreadPoolCore> core = pool.lock()) core->look_at_gate();
        };
        (void)job.add_callback(look);
    }
    extra.deadline = timed(job, extra.options.timeout, false);
    extra.soft_deadline = timed(job, extra.options.soft_timeout, true);
}

JobDeadlines::node_type ThreadPoolCore::timed(ThreadJob& job, Timeout timeout, bool only_asks) {
    if (timeout.count() <= 0 || timeout == kNoTimeout) return {};
    start_timer();
    job.add_reference();
    TimedJob timed{Ref<ThreadJob>(&job), {}, only_asks};
    timed.details.task = job.number;
    timed.details.function = job.function();
    timed.details.name = job.extra->options.name;
    timed.details.limit = static_cast<std::uint64_t>(timeout.count());
    JobDeadlines deadlines;
    deadlines.emplace(JobDue(), std::move(timed));
    return deadlines.extract(deadlines.begin());
}

// --- those that wait ---------------------------------------------------------------------------

// It has an `extra` in any case: when it is queued, others that came later may wait before it.
void ThreadPoolCore::submit_late(ThreadJobPtr job, std::vector<TaskRef> needs,
                                 const TaskOptions* options) {
    set_options(*job, options);
    if (!job->extra) job->extra = std::make_unique<JobExtra>();
    owner_.require_here();
    const bool never_waits = options_.max_pending == 0 || in_own_thread();
    std::size_t count = needs.size();
    needs.push_back(task_of(*job));
    auto late = std::make_shared<Late>(*this, std::move(needs), count, *job);
    {
        Lock lock(mutex_);
        life_.require_accepting();
        if (!never_waits) await_room();
        std::uint64_t number = next_number_;
        auto at = late_.emplace(number, late).first;
        try {
            accept(*job);
        } catch (...) {
            late_.erase(at);
            throw;
        }
        late->job = std::move(job);
    }
    dependents_.add(late);
}

void ThreadPoolCore::queue_late(Late& late, const std::exception_ptr& error,
                                bool cancelled) noexcept {
    Lock lock(mutex_);
    if (!late.job) return;  // it was ended meanwhile
    if (error) {
        late.job->refuse(error, cancelled);
        late.job->extra->tokens = nullptr;  // it will not be begun
    }
    late_.erase(late.job->number);
    ++late_left_;
    late.job->submitted_at = sys::Clock::now();
    queue(std::move(late.job));
}

void ThreadPoolCore::be_destroyed() {
    close();
    Lock lock(mutex_);
    life_.be_destroyed();
    quiet_.notify_all();  // a thread may be in join() already (join_until)
}

bool ThreadPoolCore::waits_in_vain() const {
    return life_.destroyed() && !late_.empty() && unfinished_ == late_.size();
}

// When all jobs that are left wait for what nobody of this pool will do.
void ThreadPoolCore::end_vain_waits() {
    for (;;) {
        std::uint64_t left = 0;
        {
            Lock lock(mutex_);
            if (!life_.destroyed()) return;
            while (unfinished_ > late_.size()) quiet_.wait(mutex_);
            if (late_.empty()) return;
            left = late_left_;
        }
        dependents_.settle();
        std::map<std::uint64_t, std::shared_ptr<Late>> late;
        {
            Lock lock(mutex_);
            if (late_left_ != left) continue;
            late = late_;
        }
        for (auto& [number, each] : late) each->task.fail_cancelled(spare_errors().waited_in_vain);
    }
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
