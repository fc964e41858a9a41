#include "threads/late_jobs.hpp"

#include <utility>

#include "spare_errors.hpp"
#include "sys/sys.hpp"

namespace sidestep::inline v0::detail {

class LateJobs::Late final : public Dependents::Waiting {
  public:
    // Its own task comes last: who cancels that ends this.
    Late(LateJobs& jobs, std::vector<TaskRef> needs, std::size_t count, ThreadJob& own)
        : Waiting(std::move(needs), count), task(own), jobs_(jobs) {}
    void begin() noexcept override { jobs_.let_go(*this, nullptr, false); }
    // A thread of the pool makes that its result: callbacks run where they do otherwise.
    void fail(const std::exception_ptr& error, bool cancelled) noexcept override {
        jobs_.let_go(*this, error, cancelled);
    }

    LocalTaskBase& task;
    ThreadJobPtr job;  // guarded by the pool's mutex; null: it waits no more

  private:
    LateJobs& jobs_;
};

LateJobs::Place LateJobs::make_place(std::vector<TaskRef> needs, ThreadJob& job) {
    const std::size_t count = needs.size();
    needs.push_back(task_of(job));
    ByNumber one;
    one.emplace(0, std::make_shared<Late>(*this, std::move(needs), count, job));
    return one.extract(one.begin());
}

std::shared_ptr<Dependents::Waiting> LateJobs::add(Place place, ThreadJobPtr job) noexcept {
    std::shared_ptr<Late> late = place.mapped();
    place.key() = job->number;
    late->job = std::move(job);
    late_.insert(std::move(place));
    return late;
}

void LateJobs::let_go(Late& late, const std::exception_ptr& error, bool cancelled) noexcept {
    Lock lock(pool_.mutex);
    if (!late.job) return;  // it was ended meanwhile
    if (error) {
        late.job->refuse(error, cancelled);
        late.job->extra->tokens = nullptr;  // it will not be begun
    }
    late_.erase(late.job->number);
    ++left_;
    late.job->submitted_at = sys::Clock::now();
    team_.put(std::move(late.job));
}

LateJobs::ByNumber LateJobs::take_all(JobList& jobs) noexcept {
    ByNumber all;
    all.swap(late_);
    left_ += all.size();
    for (auto& [number, late] : all) jobs.push(std::move(late->job));
    return all;
}

void LateJobs::forget(const ByNumber& gone) noexcept {
    for (auto& [number, late] : gone) dependents_.remove(*late);
}

void LateJobs::end_vain_waits() {
    for (;;) {
        std::uint64_t left = 0;
        {
            Lock lock(pool_.mutex);
            if (!pool_.life.destroyed()) return;
            while (pool_.jobs.unfinished > late_.size()) pool_.quiet.wait(pool_.mutex);
            if (late_.empty()) return;
            left = left_;
        }
        dependents_.settle();
        ByNumber all;
        {
            Lock lock(pool_.mutex);
            if (left_ != left) continue;
            all = late_;
        }
        for (auto& [number, late] : all) late->task.fail_cancelled(spare_errors().waited_in_vain);
    }
}

}  // namespace sidestep::detail
