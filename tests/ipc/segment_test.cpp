#include "memory/segment.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include <sidestep/queue.hpp>

#include "sandbox.hpp"
#include "support.hpp"

namespace segment_test {

namespace sys = sidestep::sys;
using sidestep::Segment;
using test::Refusal;

namespace {

std::size_t resident_bytes(const Segment& segment) {
    struct stat status = {};
    REQUIRE(fstat(segment.fd().get(), &status) == 0);
    return static_cast<std::size_t>(status.st_blocks) * 512;
}

// The kernel's own opinion: writing there fails instead of killing us.
bool is_writable(std::byte* at) { return syscall(SYS_getrandom, at, 1, 0) == 1; }
bool is_mapped(std::byte* at) { return msync(at, 1, MS_ASYNC) == 0; }

// The exit code of body() in a forked child.
template <class Body>
int in_child(Body body) {
    pid_t pid = fork();
    if (pid == 0) _exit(body());
    sidestep::Fd pidfd = sys::pidfd_open(pid);
    return sys::wait_pidfd(pidfd.get(), true).returncode();
}

}  // namespace

TEST_CASE("a new segment is zeros, of exactly its size, and costs nothing yet", "[ipc][segment]") {
    for (std::size_t size : {std::size_t(1), std::size_t(4095), std::size_t(4096),
                             std::size_t(4097), std::size_t(1) << 20}) {
        Segment segment = Segment::create("sidestep-test", size);
        CHECK(segment.size() == size);
        CHECK(segment.bytes().size() == size);
        CHECK(resident_bytes(segment) == 0);
        CHECK(std::all_of(segment.bytes().begin(), segment.bytes().end(),
                          [](std::byte b) { return b == std::byte{0}; }));
    }
    Segment huge = Segment::create("sidestep-test", std::size_t(1) << 34);
    huge.data()[huge.size() - 1] = std::byte{1};
    CHECK(resident_bytes(huge) <= 2 << 20);  // a page, or a huge one
}

TEST_CASE("a segment of no bytes is an error", "[ipc][segment]") {
    CHECK_THROWS_AS(Segment::create("sidestep-test", 0), std::system_error);
}

TEST_CASE("who attaches sees the same memory, of the file's own size", "[ipc][segment]") {
    Segment original = Segment::create("sidestep-test", 10'000);
    Segment second = Segment::attach(original.fd().duplicate(), sys::Access::read_write);
    CHECK(second.size() == 10'000);
    CHECK(second.data() != original.data());
    *original.at<int>(4096) = 17;
    CHECK(*second.at<int>(4096) == 17);
    *second.at<int>() = 18;
    CHECK(*original.at<int>() == 18);
}

TEST_CASE("who attaches for reading cannot write", "[ipc][segment]") {
    Segment original = Segment::create("sidestep-test", 4096);
    original.data()[0] = std::byte{5};
    Segment reader = Segment::attach(sys::reopen_read_only(original.fd()), sys::Access::read_only);
    CHECK(reader.data()[0] == std::byte{5});
    CHECK(is_writable(original.data()));
    CHECK_FALSE(is_writable(reader.data()));
    CHECK_THROWS_AS(Segment::attach(sys::reopen_read_only(original.fd()), sys::Access::read_write),
                    std::system_error);
}

TEST_CASE("attaching what is no segment is an error", "[ipc][segment]") {
    CHECK_THROWS_AS(Segment::attach(sidestep::Fd(), sys::Access::read_only), std::system_error);
    CHECK_THROWS_AS(Segment::attach(sys::make_eventfd(), sys::Access::read_only),
                    std::system_error);
    sys::Pipe pipe = sys::make_pipe();
    CHECK_THROWS_AS(Segment::attach(std::move(pipe.read_end), sys::Access::read_only),
                    std::system_error);
}

TEST_CASE("the memory outlives whoever made it, while somebody maps it", "[ipc][segment]") {
    Segment second;
    {
        Segment first = Segment::create("sidestep-test", 4096);
        *first.at<int>() = 99;
        second = Segment::attach(first.fd().duplicate(), sys::Access::read_write);
    }
    CHECK(*second.at<int>() == 99);
    Segment moved = std::move(second);
    CHECK(*moved.at<int>() == 99);
    CHECK(second.data() == nullptr);  // NOLINT: moved from, and empty by contract
}

TEST_CASE("a forked child shares the memory; what it wrote before kill -9 stays",
          "[ipc][segment]") {
    Segment segment = Segment::create("sidestep-test", 4096);
    auto* word = segment.at<std::atomic<int>>();
    word->store(1);
    int code = in_child([&] {
        if (word->load() != 1) return 1;
        word->store(2);
        kill(getpid(), SIGKILL);
        return 2;
    });
    CHECK(code == -SIGKILL);
    CHECK(word->load() == 2);
}

TEST_CASE("a segment that is not for children is not there in them", "[ipc][segment]") {
    Segment shared = Segment::create("sidestep-test", 4096);
    Segment hidden = Segment::create("sidestep-test", 4096);
    sys::dont_fork(hidden.bytes());
    CHECK(in_child([&] { return is_mapped(shared.data()) && !is_mapped(hidden.data()) ? 0 : 1; }) ==
          0);
    CHECK(is_mapped(hidden.data()));
}

TEST_CASE("segments stay out of core dumps", "[ipc][segment]") {
    Segment segment = Segment::create("sidestep-dumped", 4096);
    std::ifstream maps("/proc/self/smaps");
    std::string line, flags;
    bool ours = false;
    while (std::getline(maps, line)) {
        if (line.find("sidestep-dumped") != std::string::npos) ours = true;
        if (ours && line.starts_with("VmFlags:")) {
            flags = line + " ";
            break;
        }
    }
    CHECK_THAT(flags, Catch::Contains(" dd "));
}

TEST_CASE("a reservation shrinks to the address space there is", "[ipc][segment]") {
    constexpr std::size_t kWanted = std::size_t(1) << 30, kLeast = std::size_t(1) << 20;
    CHECK(Segment::reserve("sidestep-test", kWanted, kLeast).size() == kWanted);
    auto under_limit = [&](std::size_t more, auto body) {
        return in_child([&] {
            std::size_t pages = 0;
            std::ifstream("/proc/self/statm") >> pages;
            rlimit limit = {pages * 4096 + more, pages * 4096 + more};
            if (setrlimit(RLIMIT_AS, &limit) != 0) return 100;
            return body();
        });
    };
    CHECK(under_limit(std::size_t(128) << 20, [&] {
              Segment segment = Segment::reserve("sidestep-test", kWanted, kLeast);
              bool halved = segment.size() < kWanted && segment.size() >= kLeast &&
                            kWanted % segment.size() == 0;
              segment.data()[segment.size() - 1] = std::byte{1};
              return halved ? 0 : 1;
          }) == 0);
    CHECK(under_limit(std::size_t(8) << 20, [&] {
              try {
                  (void)Segment::reserve("sidestep-test", kWanted, kWanted / 2);
                  return 1;
              } catch (const std::system_error& error) {
                  std::string text = error.what();
                  bool clear = text.find("sidestep-test: cannot reserve") == 0 &&
                               text.find("RLIMIT_AS") != std::string::npos;
                  return clear && error.code() == std::errc::not_enough_memory ? 0 : 2;
              }
          }) == 0);
}

TEST_CASE("a reservation shrinks to the file size there may be", "[ipc][segment]") {
    CHECK(in_child([] {
              rlimit limit = {64 << 20, 64 << 20};
              if (setrlimit(RLIMIT_FSIZE, &limit) != 0) return 1;
              if (Segment::reserve("sidestep-test", 1 << 30, 1 << 20).size() != 64 << 20) return 2;
              try {
                  (void)Segment::reserve("sidestep-test", 1 << 30, 1 << 29);
                  return 3;
              } catch (const std::system_error& error) {
                  bool clear = std::string(error.what()).find("ulimit -f") != std::string::npos;
                  return clear && error.code() == std::errc::file_too_large ? 0 : 4;
              }
          }) == 0);
}

TEST_CASE("segments that are fitted together leave room for each other, and for the rest",
          "[ipc][segment]") {
    constexpr std::size_t kWanted = std::size_t(1) << 30, kLeast = std::size_t(1) << 20;
    CHECK(Segment::fitting(kWanted, kLeast, 5) == kWanted);  // no limit
    for (std::size_t room : {40u, 100u, 260u, 300u, 511u})
        CHECK(in_child([&] {
                  std::size_t pages = 0, bytes = room << 20;
                  std::ifstream("/proc/self/statm") >> pages;
                  std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
                  rlimit limit = {pages * page + bytes, pages * page + bytes};
                  if (setrlimit(RLIMIT_AS, &limit) != 0) return 100;
                  std::size_t size = Segment::fitting(kWanted, kLeast, 5);
                  if (size < kLeast || kWanted % size != 0 || 20 * size < bytes / 2) return 1;
                  std::vector<Segment> all;
                  for (int i = 0; i < 5; ++i) all.push_back(Segment::create("sidestep-test", size));
                  return 5 * size <= bytes / 2 ? 0 : 2;
              }) == 0);
}

TEST_CASE("a queue leaves half of a limited address space to the rest", "[ipc][segment][queue]") {
    for (std::size_t room : {40u, 130u, 520u})  // a little more than what halving may end at
        CHECK(in_child([&] {
                  std::size_t pages = 0, bytes = room << 20;
                  std::ifstream("/proc/self/statm") >> pages;
                  std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
                  rlimit limit = {pages * page + bytes, pages * page + bytes};
                  if (setrlimit(RLIMIT_AS, &limit) != 0) return 100;
                  sidestep::Queue<int> queue;
                  void* rest =
                      mmap(nullptr, bytes / 4, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
                  return rest != MAP_FAILED ? 0 : 1;
              }) == 0);
}

TEST_CASE("an error that no limit made blames none", "[ipc][segment]") {
    for (int error : {EPERM, ENOSYS})
        CHECK(test::where_refused({{SYS_memfd_create, error}}, [] {
                  try {
                      (void)Segment::reserve("sidestep-test", 1 << 30, 1 << 20);
                      return 1;
                  } catch (const std::system_error& e) {
                      std::string text = e.what();
                      bool clear = text.find("memfd_create(sidestep-test)") == 0 &&
                                   text.find("sandbox") != std::string::npos;
                      return clear && text.find("RLIMIT") == std::string::npos ? 0 : 2;
                  }
              }) == 0);
    Refusal mmap_refused = {SYS_mmap, ENOMEM, 3, MAP_SHARED, MAP_SHARED};
    CHECK(test::where_refused({mmap_refused}, [] {
              try {
                  (void)Segment::reserve("sidestep-test", 1 << 30, 1 << 29);
                  return 1;
              } catch (const std::system_error& e) {
                  return std::string(e.what()).find("RLIMIT") == std::string::npos ? 0 : 2;
              }
          }) == 0);
}

TEST_CASE("pages come on first touch where MADV_POPULATE_WRITE is refused", "[ipc][segment]") {
    for (int error : {EINVAL, EPERM, ENOSYS})
        CHECK(test::where_refused({{SYS_madvise, error, 2, 23}}, [] {
                  Segment segment = Segment::create("sidestep-test", 1 << 20);
                  return sys::populate(segment.bytes()) ? 0 : 1;
              }) == 0);
}

TEST_CASE("a range is brought in whole, wherever in a page it begins", "[ipc][segment]") {
    for (std::size_t offset : {0u, 1u, 256u, 4095u}) {
        Segment segment = Segment::create("sidestep-test", 1 << 20);
        CHECK(sys::populate(segment.bytes().subspan(offset, 64 << 10)));
        CHECK(resident_bytes(segment) >= 64 << 10);
    }
    Segment reader = Segment::create("sidestep-test", 8192);
    Segment view = Segment::attach(sys::reopen_read_only(reader.fd()), sys::Access::read_only);
    CHECK(view.data()[100] == std::byte{0});
}

}  // namespace segment_test
