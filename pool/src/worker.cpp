#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstdio>
#include <new>
#include <optional>
#include <utility>

#include <sidestep/detail/call_times.hpp>
#include <sidestep/detail/chunk.hpp>
#include <sidestep/detail/forced_unwind.hpp>
#include <sidestep/detail/printed_output.hpp>
#include <sidestep/remote_error.hpp>
#include <sidestep/task.hpp>
#include <sidestep/this_task.hpp>

#include "inner_threads.hpp"
#include "result_buffer.hpp"
#include "start/boot.hpp"
#include "start/boot_failure.hpp"
#include "start/lifeline.hpp"
#include "sync/spin.hpp"
#include "sys/error.hpp"
#include "task_fds.hpp"
#include "worker_heap.hpp"
#include "worker_protocol.hpp"
#include "worker_settings.hpp"

namespace sidestep::inline v0 {

std::uint32_t SpinPolicy::awake(const ControlPage& page) const {
    std::uint32_t sleeping = 0;
    for (std::uint32_t i = 0; i * 64 < workers; ++i) {
        std::uint64_t word = page.parked[i].load(std::memory_order_relaxed);        // a hint
        if (workers - i * 64 < 64) word &= (std::uint64_t(1) << workers % 64) - 1;  // of workers
        sleeping += static_cast<std::uint32_t>(std::popcount(word));
    }
    return workers - sleeping;
}

std::chrono::nanoseconds SpinPolicy::budget(const ControlPage& page) const {
    std::uint32_t count = awake(page);
    return std::chrono::nanoseconds(count > 0 && count + 1 <= cpus ? spin_ns : 0);
}

void ControlPage::set_parked(std::uint32_t worker, bool parked_now) {
    std::atomic<std::uint64_t>& word = parked[worker / 64];
    std::uint64_t bit = std::uint64_t(1) << (worker % 64);
    if (parked_now)
        word.fetch_or(bit, std::memory_order_relaxed);
    else
        word.fetch_and(~bit, std::memory_order_relaxed);
}

namespace {

const BootEntry kWorkerEntry [[gnu::init_priority(200)]] (&worker_main);
constexpr std::uint64_t kAnnounceWakeUps = 4;     // so many wake-ups' worth of work at a time
constexpr std::uint64_t kAnnounceOfMany = 16;     // while much more waits
constexpr std::uint32_t kAnnounced = 64;          // tasks that are announced at a time, at most
constexpr std::uint64_t kTidyNs = 1'000'000'000;  // how often a busy worker lets go of objects

using detail::steady_now_ns;

// A result that does not fit arrives as the std::bad_alloc that it is.
[[maybe_unused]] const bool registered = register_exception<OutOfSharedMemory>();

class Worker {
  public:
    Worker(const WorkerSetup& setup, std::vector<Fd> fds, Fd control)
        : ring_segment_(Segment::attach(std::move(fds[0]), sys::Access::read_write)),
          result_segment_(Segment::attach(std::move(fds[1]), sys::Access::read_write)),
          args_segment_(Segment::attach(std::move(fds[2]), sys::Access::read_only)),
          control_segment_(Segment::attach(std::move(fds[3]), sys::Access::read_write)),
          supervisor_bell_(std::move(fds[4])),
          task_fds_(std::move(control)),
          control_(control_segment_.at<ControlPage>()),
          ring_(ring_segment_.at<RingHeader>(), setup.ring_capacity),
          words_(reinterpret_cast<WorkerWords*>(ring_segment_.data() + kWorkerWordsAt)),
          results_(result_segment_, ring_, *words_),
          meter_(*words_),
          partial_(words_->partial_checks),
          wake_ns_(setup.wake_ns),
          spin_(setup.spin),
          settings_(setup.settings),
          inner_threads_(setup.inner_threads),
          initializer_(setup.initializer),
          finalizer_(setup.finalizer),
          context_(detail::task_context()),
          index_(setup.index),
          parent_pid_(setup.parent_pid) {
        if (setup.captures_output) output_fds_ = {std::move(fds[5]), std::move(fds[6])};
        // A process that a task forks must not keep our memory alive, nor write to it.
        for (const Segment* s :
             {&ring_segment_, &result_segment_, &args_segment_, &control_segment_})
            sys::dont_fork(s->bytes());
        record_crashes(*reinterpret_cast<CrashRecord*>(ring_segment_.data() + kCrashRecordAt));
        detail::set_process_description(
            fmt::format("  in worker {} (process {})\n", index_, getpid()));
        context_->worker = static_cast<int>(index_);
        context_->seed = setup.seed;
        context_->stop_number = &ring_.stop_number();
        context_->progress = &partial_;
    }

    // What the parent is told: that it is ready, or what its initializer threw, or the setting up
    // before.
    WorkerReady initialize() {
        WorkerReady ready;
        std::uint64_t begin = steady_now_ns();
        try {
            ready.in_settings = 1;
            set_up();
            ready.in_settings = 0;
            if (!initializer_.given) return ready;
            words_->initializing.store(1, std::memory_order_relaxed);
            begin = steady_now_ns();
            if (initializer_.fds || initializer_.lasting_fds)
                task_fds_.await(kInitializerFds, initializer_.fds, initializer_.lasting_fds);
            if (initializer_.fds) task_fds_.open(kInitializerFds, initializer_.fds);
            run_hook(initializer_);
        } catch (...) {
            detail::pass_on_forced_unwind();
            detail::HeapBuffer text;
            OutputArchive output(text);
            detail::save_current_exception(output, detail::process_description());
            ready.error_block = results_.allocate(text.size());
            ready.error_size = text.size();
            std::memcpy(results_.data(ready.error_block), text.begin(), text.size());
        }
        if (initializer_.fds) task_fds_.close();
        (void)detail::flush_printed();
        meter_.initialized(steady_now_ns() - begin);
        return ready;
    }

    [[noreturn]] void work() {
        if (output_fds_.first)
            output_.emplace(std::move(output_fds_.first), std::move(output_fds_.second));
        control_->set_parked(index_, false);
        std::uint64_t begin = steady_now_ns();
        meter_.begin(begin);
        for (;;) {
            TaskSlot* slot = ring_.claim();
            if (!slot) {
                meter_.begin_idle(begin);
                wait_for_task();
                std::uint64_t now = steady_now_ns();
                meter_.end_idle(begin, now);
                begin = now;
                continue;
            }
            const SlotTask task(*slot);
            if (!task.is_sound()) end_damaged(*words_, Damage::task_refused);
            partial_.begin(*slot, task.serial);
            if (task.items_end) {  // not in the sum: they change while the task runs
                slot->started_ns.store(0, std::memory_order_relaxed);
                partial_.begin_anew();
            }
            meter_.begin_task();
            if (task.module == 0 && task.offset == kStopOffset) {
                meter_.leave();
                reply(*slot, {task.serial, ReplyKind::stopped, 0, 0, begin, 0});
                leave();
            }
            context_->number = context_->item = task.serial;
            context_->attempt = task.attempt;
            context_->items_begin = task.items_begin;
            context_->items_end = task.items_end;
            context_->started_ns = task.timed ? &slot->started_ns : nullptr;
            detail::CallTimes parts;
            bool measured = meter_.wants_parts();
            SlotSum::Reply its = run(task, *slot, measured ? &parts : nullptr);
            heap_used_ = true;
            context_->prints_elsewhere = detail::flush_printed() || context_->prints_elsewhere;
            std::uint64_t end = steady_now_ns();
            std::uint64_t duration = end - begin;
            meter_.worked(begin, end);
            if (measured && its.kind == ReplyKind::value)
                meter_.measured(parts.serialize_part(duration));
            if (output_) mark_output(*slot);
            // The parent knows whether it asked, and takes no result then. If it did not, a task
            // wrote so, and what came of the one that believed it may be half of it.
            if (context_->stop_requested()) its.kind = ReplyKind::stopped;
            its.begun_ns = begin;
            its.duration_ns = duration;
            reply(*slot, its);
            begin = end;
            announce(duration);
            if (end >= tidy_at_) tidy(end);  // a value of the user's may end with its object
        }
    }

  private:
    // What the pool's options say about each worker's process.
    void set_up() {
        if (settings_.size > 0) {
            InputArchive input(
                {args_segment_.data() + Arena::offset(settings_.block), settings_.size});
            detail::WorkerSettings settings;
            input(settings);
            settings.apply(index_);
        }
        set_inner_threads(inner_threads_);
    }

    void run_hook(const HookSetup& hook) {
        const detail::TaskEntry& entry = detail::require_entry(
            {{hook.module, hook.offset}, hook.signature}, "the initializer or finalizer");
        InputArchive input({args_segment_.data() + Arena::offset(hook.block), hook.size},
                           &task_fds_);
        detail::HeapBuffer nothing;
        OutputArchive output(nothing);
        entry.run(input, output);
    }

    [[noreturn]] void leave() {
        context_->number = context_->item = context_->attempt = 0;  // this is no task
        if (output_) output_->stop();
        try {
            if (finalizer_.fds) task_fds_.open(kFinalizerFds, finalizer_.fds);
            if (finalizer_.given) run_hook(finalizer_);
        } catch (const std::exception& error) {
            std::fprintf(stderr, "sidestep: the finalizer of worker %u threw %s\n", index_,
                         error.what());
        } catch (...) {
            detail::pass_on_forced_unwind();
            std::fprintf(stderr, "sidestep: the finalizer of worker %u threw\n", index_);
        }
        leave_process(0);
    }

    const detail::TaskEntry& entry_of(const SlotTask& task) {
        detail::TaskId id{{task.module, task.offset}, task.signature};
        if (cached_entry_ && id.where.module == cached_.where.module &&
            id.where.offset == cached_.where.offset && id.signature == cached_.signature)
            return *cached_entry_;
        cached_entry_ = &detail::require_entry(id, "the task");
        cached_ = id;
        return *cached_entry_;
    }

    // The arguments: not in the slot, where the result is written over them.
    std::span<const std::byte> arguments(const SlotTask& task) {
        if (task.block) return {args_segment_.data() + Arena::offset(task.block), task.size};
        return {task.inline_bytes, task.size};
    }

    void reply(TaskSlot& slot, const SlotSum::Reply& its) {
        slot.reply = its.kind;
        slot.block = its.block;
        slot.size = its.size;
        slot.begun_ns = its.begun_ns;
        slot.duration_ns = its.duration_ns;
        slot.sum = SlotSum::of_reply(its, slot.inline_bytes);
        if (!ring_.complete(slot)) end_damaged(*words_, Damage::found_later);
    }

    // no_sanitize: by the ABI, who catches a forced unwind is given a null reference.
    // Returns the reply, but for its times.
    __attribute__((no_sanitize("null"))) SlotSum::Reply run(const SlotTask& task, TaskSlot& slot,
                                                            detail::CallTimes* parts) {
        ReplyKind kind = ReplyKind::value;
        ResultBuffer buffer(slot, partial_, results_);
        try {
            if (task.fds) task_fds_.open(task.serial, task.fds);
            InputArchive input(arguments(task), &task_fds_);
            const detail::TaskEntry& entry = entry_of(task);
            OutputArchive output(buffer);
            output.set_times(parts);
            if (parts) parts->begin();
            entry.run(input, output);
        } catch (...) {
            detail::pass_on_forced_unwind();
            kind = save_error(task, buffer);
        }
        if (task.fds) task_fds_.close();
        std::uint64_t size = buffer.size();
        return {task.serial, kind, buffer.release(), size, 0, 0};
    }

    void tidy(std::uint64_t now) {
        task_fds_.tidy();
        tidy_at_ = now + kTidyNs;
    }

    void mark_output(const TaskSlot& slot) {
        auto position = &slot - ring_segment_.at<RingHeader>()->slots();
        ring_segment_.at<OutputMark>(kOutputMarksAt)[position] = output_->mark();
    }

    ReplyKind save_error(const SlotTask& task, ResultBuffer& buffer) {
        buffer.restart();
        OutputArchive output(buffer);
        std::string where;
        try {
            where = fmt::format("{}  in task {}\n", detail::process_description(), task.serial);
        } catch (const std::bad_alloc&) {  // it goes without
        }
        detail::save_current_exception(output, where);  // for its least, the slot has room
        return task_fds_.lacked() ? ReplyKind::lacks_fds : ReplyKind::error;
    }

    // How many tasks like this one it takes until a parent that is woken now has handed out more.
    std::uint32_t tasks_until_refill(std::uint64_t duration) const {
        if (duration < WorkerMeter::kTinyTaskNs) return 0;
        return static_cast<std::uint32_t>(std::min<std::uint64_t>(2 * wake_ns_ / duration, 32));
    }

    // After a completed task: tells the parent, if it sleeps, now or with the next ones. To wake it
    // costs this worker about as much time as it takes (an interrupt of another CPU), so while
    // there is more to do, it is done for several wake-ups' worth of work at a time: for more of
    // it while three times as many tasks wait, whose results take that much longer anyway. A result
    // is late by so much, or by the supervisor's tick.
    void announce(std::uint64_t duration) {
        bool is_long = duration > kLongTaskNs;
        ++unannounced_;
        unannounced_ns_ += duration;
        std::uint32_t three_times = std::min(3 * unannounced_, kRingCapacity - 1);
        bool is_little =
            unannounced_ns_ < kAnnounceWakeUps * wake_ns_ ||
            (unannounced_ns_ < kAnnounceOfMany * wake_ns_ && ring_.has_work(three_times));
        if (is_little && ring_.has_work(tasks_until_refill(duration))) return;
        std::atomic_thread_fence(std::memory_order_seq_cst);  // SYNC(E1), SYNC(attended)
        if (control_->bell.has_sleepers())
            control_->bell.notify_all_fenced();
        else if (is_long || (unannounced_ >= kAnnounced && ring_.parent_lags(2 * kAnnounced)))
            ring_supervisor();
        else if (unannounced_ < kAnnounced)
            return;
        unannounced_ = 0;
        unannounced_ns_ = 0;
    }

    // SYNC(attended): the parent clears `attended`, fences, and looks at the rings; we complete a
    // task, fence, and look at `attended`. So one of us sees the other.
    void ring_supervisor() {
        if (control_->attended.load(std::memory_order_relaxed) != 0) return;
        if (control_->armed.load(std::memory_order_relaxed) == 0 || ring_.all_consumed()) return;
        if (control_->armed.exchange(0) == 0) return;
        std::uint64_t one = 1;
        (void)!::write(supervisor_bell_.get(), &one, sizeof one);
    }

    void wait_for_task() {
        if (spin_until(spin_.budget(*control_), [&] { return ring_.has_work(); })) return;
        std::atomic_thread_fence(std::memory_order_seq_cst);  // SYNC(E1), SYNC(attended)
        // The task after one that was not announced may have been taken back.
        if (unannounced_ > 0 && control_->bell.has_sleepers())
            control_->bell.notify_all_fenced();
        else
            ring_supervisor();
        unannounced_ = 0;
        unannounced_ns_ = 0;
        control_->set_parked(index_, true);
        EventCount& bell = ring_.doorbell();
        EventCount::Key key = bell.prepare(0);
        if (!ring_.has_work()) bell.wait(key, {});
        bell.cancel(0);
        control_->set_parked(index_, false);
        if (!ring_.has_work()) {  // nothing came for a whole second
            task_fds_.tidy();
            results_.give_back_pages();
            if (std::exchange(heap_used_, false)) give_back_freed_memory();
        }
        // The lifeline kills us with our parent; this is for a parent whose lifeline a forked
        // process still holds.
        if (parent_is_gone(parent_pid_)) leave_process(1);
    }

    Segment ring_segment_, result_segment_, args_segment_, control_segment_;
    Fd supervisor_bell_;
    TaskFds task_fds_;
    ControlPage* control_;
    RingWorker ring_;
    WorkerWords* words_;
    ResultArena results_;
    WorkerMeter meter_;
    PartialWriter partial_;
    std::uint64_t wake_ns_;
    SpinPolicy spin_;
    SettingsBlock settings_;
    unsigned inner_threads_;
    HookSetup initializer_, finalizer_;
    std::pair<Fd, Fd> output_fds_;  // until the initializer has run
    std::optional<OutputCapture> output_;
    detail::TaskContext* context_;
    std::uint32_t index_;
    int parent_pid_;
    detail::TaskId cached_;
    const detail::TaskEntry* cached_entry_ = nullptr;
    std::uint32_t unannounced_ = 0;  // tasks whose result the parent may not have seen
    std::uint64_t unannounced_ns_ = 0;
    std::uint64_t tidy_at_ = 0;
    bool heap_used_ = false;  // since freed memory was given back
};

// A worker reads nobody's keyboard.
void use_null_input() {
    int null = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (null < 0) return;
    ::dup2(null, STDIN_FILENO);
    ::close(null);
}

// A worker has no terminal: it leads a process group of its own, which is never in the foreground.
// So a task that reads the terminal gets EIO, and one that writes there writes, `stty tostop` or
// not; by default either would stop the worker for ever.
void leave_terminal_alone() {
    (void)::signal(SIGTTIN, SIG_IGN);
    (void)::signal(SIGTTOU, SIG_IGN);
}

void pin_to(int cpu) {
    if (cpu < 0) return;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(static_cast<std::size_t>(cpu), &set);
    (void)sched_setaffinity(0, sizeof set, &set);  // the CPU may be gone since: then any will do
}

}  // namespace

void worker_main(Fd control) {
    WorkerSetup setup;
    sys::Message message =
        sys::receive_message(control.get(), std::as_writable_bytes(std::span(&setup, 1)));
    if (message.closed) leave_process(0);
    if (message.size != sizeof setup || setup.magic != WorkerSetup::kMagic ||
        message.fds.size() != setup.fds())
        throw std::runtime_error("the set-up message is not one of this version of Sidestep");
    use_null_input();
    leave_terminal_alone();
    keep_freed_memory();
    prctl(PR_SET_NAME, fmt::format("sidestep/{}", setup.index).c_str());
    pin_to(setup.cpu);
    int control_fd = control.get();
    Worker worker(setup, std::move(message.fds), std::move(control));
    WorkerReady ready = worker.initialize();
    sys::send_message(control_fd, std::as_bytes(std::span(&ready, 1)), {});
    end_boot();
    if (ready.error_block) leave_process(1);
    worker.work();
}

}  // namespace sidestep
