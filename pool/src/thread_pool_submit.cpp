// How jobs come to a ThreadPool: at once, or when what they wait for is there.
#include <fmt/format.h>

#include <stdexcept>
#include <typeinfo>
#include <utility>

#include <sidestep/detail/late_job.hpp>

#include "spare_errors.hpp"
#include "sys/sys.hpp"
#include "thread_pool_core.hpp"
#include "thread_pool_late.hpp"

namespace sidestep::inline v0::detail {

void refuse_retries(const Retry& retry) {
    if (retry.max_attempts > 1)
        throw std::invalid_argument(fmt::format(
            "TaskOptions::retry.max_attempts is {}, and an argument cannot be copied: the second "
            "attempt would have none. Give it a shared_ptr, or max_attempts = 1",
            retry.max_attempts));
}

void ThreadPoolCore::submit(std::unique_ptr<ThreadJob> job, const TaskOptions* options,
                            bool begun) {
    set_options(*job, options);
    require_owner();
    const bool never_waits = options_.max_pending == 0 || begun || in_own_thread();
    Lock lock(mutex_);
    life_.require_accepting(begun);
    if (!never_waits) await_room();
    const bool first = threads_.empty();  // accept() starts one, which is not idle yet
    queue(accept(std::move(job)), !first);
}

// The pool has one more job, and whatever it takes to queue it.
ThreadPoolCore::Jobs::node_type ThreadPoolCore::accept(std::unique_ptr<ThreadJob> job) {
    job->task().belong_to(pid_, weak_from_this());
    job->number = next_number_;
    job->submitted_at = sys::Clock::now();
    Key key{-job->options.priority, job->number};
    std::uint64_t sticky = job->options.key;
    Jobs one;
    one.emplace(key, prepare(std::move(job)));
    if (sticky)
        while (threads_.size() <= sticky % most_threads()) start_thread();  // it must be that one
    else if (threads_.empty())
        start_thread();  // or nobody would run it
    ++next_number_;
    ++unfinished_;
    return one.extract(one.begin());
}

void ThreadPoolCore::queue(Jobs::node_type job, bool wants_help) noexcept {
    if (job.mapped().tokens) return wait_at_gate(std::move(job), wants_help);
    if (std::uint64_t sticky = job.mapped().job->options.key) {
        keyed_.find(static_cast<unsigned>(sticky % most_threads()))->second.insert(std::move(job));
        return changed_.notify_all();
    }
    waiting_.insert(std::move(job));
    if (wants_help) help_if_needed();
    changed_.notify_one();
    wake_all_if_extra();
}

// --- tokens ------------------------------------------------------------------------------------

void ThreadPoolCore::wait_at_gate(Jobs::node_type node, bool wants_help) noexcept {
    TokenUse& use = *node.mapped().tokens;
    ThreadJob& job = *node.mapped().job;
    use.priority = job.options.priority;
    use.number = job.number;
    if (std::uint64_t sticky = job.options.key)
        use.worker = static_cast<std::uint32_t>(sticky % most_threads());
    use.over = &job.task();
    at_gate_.insert(std::move(node));
    tokens_.wait(use);
    if (wants_help) help_if_needed();
    changed_.notify_all();
}

TokenUse* ThreadPoolCore::first_at_gate(unsigned index) noexcept {
    TokenUse* own = tokens_.first(index);
    TokenUse* other = tokens_.first(TokenUse::kAnyWorker);
    if (own && other) return own->comes_before(*other) ? own : other;
    return own ? own : other;
}

void ThreadPoolCore::free_tokens(TokenUse& use) noexcept {
    tokens_.give_back(use);
    if (!at_gate_.empty()) changed_.notify_all();
}

void ThreadPoolCore::look_at_gate() {
    if (!owned_here()) return;
    Lock lock(mutex_);
    help_if_needed();
    changed_.notify_all();
}

// What running it takes, and may not be had when it is to run: then submit() throws.
ThreadPoolCore::Entry ThreadPoolCore::prepare(std::unique_ptr<ThreadJob> job) {
    Entry entry;
    Running one{{job->number, &job->task()}};
    entry.running = one.extract(one.begin());
    entry.tokens = tokens_.wanted(job->options.uses);
    if (entry.tokens) {  // who cancels it lets others go on
        std::function<void()> look = [pool = weak_from_this()] {
            if (std::shared_ptr<ThreadPoolCore> core = pool.lock()) core->look_at_gate();
        };
        (void)job->task().add_callback(look);
    }
    entry.deadline = timed(*job, job->options.timeout, false);
    entry.soft_deadline = timed(*job, job->options.soft_timeout, true);
    entry.job = std::move(job);
    return entry;
}

ThreadPoolCore::Deadlines::node_type ThreadPoolCore::timed(ThreadJob& job, Timeout timeout,
                                                           bool only_asks) {
    if (timeout.count() <= 0 || timeout == kNoTimeout) return {};
    start_timer();
    job.task().add_reference();
    Timed timed{Ref<LocalTaskBase>(&job.task()), &typeid(job), {}, only_asks};
    timed.details.task = job.number;
    timed.details.function = job.function();
    timed.details.name = job.options.name;
    timed.details.limit = static_cast<std::uint64_t>(timeout.count());
    Deadlines deadlines;
    deadlines.emplace(Due(), std::move(timed));
    return deadlines.extract(deadlines.begin());
}

// --- those that wait ---------------------------------------------------------------------------

void ThreadPoolCore::submit_late(std::unique_ptr<ThreadJob> job, std::vector<TaskRef> needs,
                                 const TaskOptions* options) {
    set_options(*job, options);
    require_owner();
    const bool never_waits = options_.max_pending == 0 || in_own_thread();
    std::size_t count = needs.size();
    job->task().add_reference();
    needs.emplace_back(&job->task());
    auto late = std::make_shared<Late>(*this, std::move(needs), count, job->task());
    {
        Lock lock(mutex_);
        life_.require_accepting();
        if (!never_waits) await_room();
        std::uint64_t number = next_number_;
        auto at = late_.emplace(number, late).first;
        try {
            late->job = accept(std::move(job));
        } catch (...) {
            late_.erase(at);
            throw;
        }
    }
    dependents_.add(late);
}

void ThreadPoolCore::queue_late(Late& late, const std::exception_ptr& error,
                                bool cancelled) noexcept {
    Lock lock(mutex_);
    if (late.job.empty()) return;  // it was ended meanwhile
    if (error) {
        late.job.mapped().job->refuse(error, cancelled);
        late.job.mapped().tokens = nullptr;  // it will not be begun
    }
    late_.erase(late.job.mapped().job->number);
    ++late_left_;
    late.job.mapped().job->submitted_at = sys::Clock::now();
    queue(std::move(late.job), true);
}

void ThreadPoolCore::be_destroyed() {
    close();
    Lock lock(mutex_);
    is_destroyed_ = true;
    quiet_.notify_all();  // a thread may be in join() already (join_until)
}

bool ThreadPoolCore::waits_in_vain() const {
    return is_destroyed_ && !late_.empty() && unfinished_ == late_.size();
}

// When all jobs that are left wait for what nobody of this pool will do.
void ThreadPoolCore::end_vain_waits() {
    for (;;) {
        std::uint64_t left = 0;
        {
            Lock lock(mutex_);
            if (!is_destroyed_) return;
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

void submit_job(ThreadPoolCore& core, std::unique_ptr<ThreadJob> job, const TaskOptions* options,
                bool begun) {
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

void submit_late_job(const std::shared_ptr<ThreadPoolCore>& core, std::unique_ptr<ThreadJob> job,
                     std::vector<TaskRef> needs, const TaskOptions* options) {
    core->submit_late(std::move(job), std::move(needs), options);
}

}  // namespace sidestep::detail
