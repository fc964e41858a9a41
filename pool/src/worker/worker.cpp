#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstdio>
#include <memory>
#include <new>
#include <optional>
#include <utility>

#include <sidestep/detail/call_times.hpp>
#include <sidestep/detail/chunk.hpp>
#include <sidestep/detail/forced_unwind.hpp>
#include <sidestep/detail/nested_pool.hpp>
#include <sidestep/detail/printed_output.hpp>
#include <sidestep/remote_error.hpp>
#include <sidestep/task.hpp>
#include <sidestep/this_task.hpp>

#include "start/boot.hpp"
#include "start/boot_failure.hpp"
#include "start/lifeline.hpp"
#include "sys/cpu_set.hpp"
#include "sys/error.hpp"
#include "worker/announcer.hpp"
#include "worker/hook_runner.hpp"
#include "worker/line_mark.hpp"
#include "worker/result_buffer.hpp"
#include "worker/task_fds.hpp"
#include "worker/worker_heap.hpp"
#include "worker/worker_protocol.hpp"

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
constexpr std::uint64_t kTidyNs = 1'000'000'000;  // how often a busy worker lets go of objects

using detail::steady_now_ns;

// A result that does not fit arrives as the std::bad_alloc that it is.
[[maybe_unused]] const bool registered = register_exception<OutOfSharedMemory>();

class Worker {
  public:
    Worker(const WorkerSetup& setup, std::vector<Fd> fds, Fd control)
        : memory_(fds),
          task_fds_(std::move(control)),
          ring_(memory_.ring.at<RingHeader>(), setup.ring_capacity),
          words_(reinterpret_cast<WorkerWords*>(memory_.ring.data() + kWorkerWordsAt)),
          results_(memory_.results, ring_, *words_),
          meter_(*words_),
          partial_(words_->partial_checks),
          announcer_(*memory_.control.at<ControlPage>(), ring_, std::move(fds[4]), setup),
          hooks_(setup, memory_.arguments.bytes(), task_fds_),
          context_(detail::task_context()),
          nested_(detail::nested_pool_of_worker(task_fds_.control(), setup.spin.workers)),
          index_(setup.index),
          parent_pid_(setup.parent_pid) {
        if (setup.marks_lines) line_nonce_ = setup.line_nonce;
        if (setup.captures_output) output_fds_ = {std::move(fds[5]), std::move(fds[6])};
        // A process that a task forks must not keep our memory alive, nor write to it.
        for (const Segment* s :
             {&memory_.ring, &memory_.results, &memory_.arguments, &memory_.control})
            sys::dont_fork(s->bytes());
        record_crashes(*reinterpret_cast<CrashRecord*>(memory_.ring.data() + kCrashRecordAt));
        detail::set_process_description(
            fmt::format("  in worker {} (process {})\n", index_, getpid()));
        context_->worker = static_cast<int>(index_);
        context_->seed = setup.seed;
        context_->stop_number = &ring_.stop_number();
        context_->progress = &partial_;
        context_->pool = &nested_;
    }

    // What the parent is told: that it is ready, or what its initializer threw, or the setting up
    // before.
    WorkerReady initialize() {
        WorkerReady ready;
        std::uint64_t begin = steady_now_ns();
        try {
            ready.in_settings = 1;
            hooks_.set_up();
            ready.in_settings = 0;
            if (!hooks_.has_initializer()) return ready;
            words_->initializing.store(1, std::memory_order_relaxed);
            begin = steady_now_ns();
            hooks_.initialize();
        } catch (...) {
            detail::pass_on_forced_unwind();
            detail::HeapBuffer text;
            OutputArchive output(text);
            detail::save_current_exception(output, detail::process_description());
            ready.error_block = results_.allocate(text.size());
            ready.error_size = text.size();
            std::memcpy(results_.data(ready.error_block), text.begin(), text.size());
        }
        task_fds_.close();
        (void)detail::flush_printed();
        meter_.initialized(steady_now_ns() - begin);
        return ready;
    }

    [[noreturn]] void work() {
        if (output_fds_.first)
            output_.emplace(std::move(output_fds_.first), std::move(output_fds_.second));
        if (line_nonce_ && output_)
            line_marker_.emplace(*line_nonce_, output_->out_fd(), output_->err_fd());
        announcer_.begin();
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
            announcer_.announce(duration);
            if (end >= tidy_at_) tidy(end);  // a value of the user's may end with its object
        }
    }

  private:
    void wait_for_task() {
        if (announcer_.wait_for_task()) return;
        // Nothing came for a whole second.
        task_fds_.tidy();
        results_.give_back_pages();
        if (std::exchange(heap_used_, false)) give_back_freed_memory();
        // The lifeline kills us with our parent; this is for a parent whose lifeline a forked
        // process still holds.
        if (parent_is_gone(parent_pid_)) leave_process(1);
    }

    [[noreturn]] void leave() {
        context_->number = context_->item = context_->attempt = 0;  // this is no task
        if (output_) output_->stop();
        hooks_.finalize();
        leave_process(0);
    }

    const detail::TaskEntry& entry_of(const SlotTask& task) {
        detail::TaskId id{{task.module, task.offset}, task.signature};
        if (last_.entry && id.where.module == last_.id.where.module &&
            id.where.offset == last_.id.where.offset && id.signature == last_.id.signature)
            return *last_.entry;
        last_.entry = &detail::require_entry(id, "the task");
        last_.id = id;
        return *last_.entry;
    }

    // The arguments: not in the slot, where the result is written over them.
    std::span<const std::byte> arguments(const SlotTask& task) {
        if (task.block) return {memory_.arguments.data() + Arena::offset(task.block), task.size};
        return {task.inline_bytes, task.size};
    }

    // Whatever is printed from here on is the task's.
    void begin_lines(const SlotTask& task, std::span<const std::byte>& its_arguments) {
        const std::string_view name = detail::take_task_name(its_arguments);
        line_marker_->begin_task(task.serial, name);
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
            std::span<const std::byte> its_arguments = arguments(task);
            if (line_marker_) begin_lines(task, its_arguments);
            if (task.fds) task_fds_.open(task.serial, task.fds);
            InputArchive input(its_arguments, &task_fds_);
            const detail::TaskEntry& entry = entry_of(task);
            OutputArchive output(buffer);
            output.set_times(parts);
            if (parts) parts->begin();
            entry.run(input, output);
        } catch (...) {
            detail::pass_on_forced_unwind();
            kind = save_error(buffer);
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
        auto position = &slot - memory_.ring.at<RingHeader>()->slots();
        memory_.ring.at<OutputMark>(kOutputMarksAt)[position] = output_->mark();
    }

    ReplyKind save_error(ResultBuffer& buffer) {
        buffer.restart();
        OutputArchive output(buffer);
        // For its least, the slot has room.
        detail::save_current_exception(output, detail::task_description());
        context_->tells_item = false;
        return task_fds_.lacked() ? ReplyKind::lacks_fds : ReplyKind::error;
    }

    struct Memory {  // shared with the pool's process
        explicit Memory(std::vector<Fd>& fds)
            : ring(Segment::attach(std::move(fds[0]), sys::Access::read_write)),
              results(Segment::attach(std::move(fds[1]), sys::Access::read_write)),
              arguments(Segment::attach(std::move(fds[2]), sys::Access::read_only)),
              control(Segment::attach(std::move(fds[3]), sys::Access::read_write)) {}
        Segment ring, results, arguments, control;
    };
    struct Known {  // the task that was run last
        detail::TaskId id;
        const detail::TaskEntry* entry = nullptr;
    };

    Memory memory_;
    TaskFds task_fds_;
    RingWorker ring_;
    WorkerWords* words_;
    ResultArena results_;
    WorkerMeter meter_;
    PartialWriter partial_;
    detail::Announcer announcer_;
    detail::HookRunner hooks_;
    std::pair<Fd, Fd> output_fds_;  // until the initializer has run
    std::optional<OutputCapture> output_;
    std::optional<detail::LineNonce> line_nonce_;
    std::optional<detail::LineMarker> line_marker_;
    detail::TaskContext* context_;
    const std::shared_ptr<detail::NestedPool> nested_;
    std::uint32_t index_;
    int parent_pid_;
    Known last_;
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
    sys::CpuSet set;
    set.add(cpu);
    (void)set.apply();  // the CPU may be gone since: then any will do
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
