// The pool's mutex, held, and what follows its release. White box: the class alone.
#include <memory>
#include <string>

#include <catch2/catch.hpp>

#include "task/hold.hpp"

namespace hold_test {

using namespace sidestep::detail;

namespace {

// Notes in which order things happen. Each of them takes the mutex: what comes while that is held
// would hang.
class Diary final : public Sleepers {
  public:
    void wake_waiters() noexcept override { note("wake"); }
    void kick_supervisor() noexcept override { note("kick"); }
    Leftover object(const char* name) {
        return {std::shared_ptr<const void>(
            name, [this](const void* n) { note(static_cast<const char*>(n)); })};
    }
    std::string entries() const { return entries_; }
    PoolMutex mutex;

  private:
    void note(const char* what) {
        PoolLock lock(mutex);
        entries_ += std::string(entries_.empty() ? "" : " ") + what;
    }

    std::string entries_;
};

}  // namespace

TEST_CASE("what is left for later is done once the mutex is released, sleepers first",
          "[pool][rooms][hold]") {
    Diary diary;
    {
        Hold hold(diary.mutex, diary);
        hold.drop_later(diary.object("drop"));
        hold.kick_supervisor();
        hold.wake_waiters();
        hold.kick_supervisor();
        CHECK(diary.entries() == "");
    }
    CHECK(diary.entries() == "wake kick drop");
}

TEST_CASE("a Hold that nothing was left for only releases the mutex", "[pool][rooms][hold]") {
    Diary diary;
    { Hold hold(diary.mutex, diary); }
    PoolLock lock(diary.mutex);
    CHECK(diary.entries() == "");
}

TEST_CASE("each release does what was left for it, and that once", "[pool][rooms][hold]") {
    Diary diary;
    {
        Hold hold(diary.mutex, diary);
        hold.wake_waiters();
        hold.unlock();
        CHECK(diary.entries() == "wake");
        hold.lock();
        CHECK_FALSE(hold.catch_up());
        hold.drop_later(diary.object("first"));
        CHECK(hold.catch_up());
        CHECK(diary.entries() == "wake first");
        hold.drop_later(diary.object("second"));
        hold.unlock();
        CHECK(diary.entries() == "wake first second");
    }
    CHECK(diary.entries() == "wake first second");
}

TEST_CASE("a Hold may be left several things, or nothing", "[pool][rooms][hold]") {
    Diary diary;
    {
        Hold hold(diary.mutex, diary);
        hold.drop_later(Leftover());
        CHECK_FALSE(hold.catch_up());
        for (const char* name : {"a", "b", "c"}) hold.drop_later(diary.object(name));
    }
    std::string entries = diary.entries();
    CHECK(entries.size() == 5);
    for (const char* name : {"a", "b", "c"}) CHECK(entries.find(name) != std::string::npos);
}

}  // namespace hold_test
