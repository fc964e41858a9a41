// SharedMemory between users: nobody removes, opens or waits for what is another's.
#include <sidestep/shared_memory.hpp>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <random>
#include <string>

#include <catch2/catch.hpp>

#include <sidestep/connection.hpp>

#include "private_shm.hpp"
#include "support.hpp"

#include "memory/participant.hpp"

namespace shared_memory_users_test {

using namespace sidestep;
using test::as_user;
using test::in_private_shm;
using test::kAlice;
using test::kMallory;
using test::kRoot;

namespace {

std::string path_of(const std::string& name) { return "/dev/shm/" + name; }
std::string mark_of(const std::string& name) { return "/dev/shm/.sidestep." + name; }
bool is_there(const std::string& path) {
    struct stat status = {};
    return ::lstat(path.c_str(), &status) == 0;
}

// How a link begins whose creator has died.
OwnerId dead_process() {
    test::SharedPage<OwnerId> id;
    test::Child([&] { *id = this_process(); }).wait();
    return *id;
}

void make_file(const std::string& name, mode_t mode = 0600) {
    int fd = ::open(path_of(name).c_str(), O_CREAT | O_EXCL | O_RDWR, mode);
    if (fd < 0 || ::fchmod(fd, mode) < 0 || ::ftruncate(fd, 4096) < 0)
        throw std::runtime_error("cannot make " + name);
    ::close(fd);
}

// The link that says that a dead process has made the file.
void plant(const std::string& name, OwnerId creator) {
    struct stat status = {};
    if (::stat(path_of(name).c_str(), &status) < 0) throw std::runtime_error("no " + name);
    std::string target = fmt::format("{:x}-{:x}", creator, status.st_ino);
    if (::symlink(target.c_str(), mark_of(name).c_str()) < 0)
        throw std::runtime_error("cannot plant a link for " + name);
}

// What a program does that uses shared memory.
std::string use_shared_memory() {
    SharedMemory any(create_only, 100), named(open_or_create, "program", 100);
    (void)remove_stale_names();
    return "used";
}

std::string error_of(const std::function<void()>& f) {
    try {
        f();
    } catch (const std::exception& error) {
        return error.what();
    }
    return "no error";
}

}  // namespace

TEST_CASE("a link that another user planted removes nobody's file", "[ipc][shm][users]") {
    unsigned victim = GENERATE(kAlice, kRoot);
    CHECK(in_private_shm([&]() -> std::string {
              as_user(victim, [] { return make_file("letters", 0644), ""; });
              as_user(kMallory, [] { return plant("letters", dead_process()), ""; });
              if (!is_there(mark_of("letters"))) return "nothing was planted";
              for (unsigned user : {victim, kAlice, kMallory, kRoot})
                  if (as_user(user, use_shared_memory) != "used") return "not used";
              if (!is_there(path_of("letters"))) return "the file is gone";
              return as_user(
                  kRoot, [] { return error_of([] { SharedMemory(create_only, "letters", 1); }); });
          }).find("File exists") != std::string::npos);
}

TEST_CASE("root and other users leave a dead creator's name to its own user", "[ipc][shm][users]") {
    CHECK(in_private_shm([]() -> std::string {
              as_user(kAlice, []() -> std::string {
                  test::Child([] {
                      SharedMemory memory(create_only, "alices", 100);
                      raise(SIGKILL);
                  }).wait();
                  return {};
              });
              for (unsigned user : {kRoot, kMallory}) {
                  as_user(user, use_shared_memory);
                  if (!is_there(path_of("alices"))) return "another user removed it";
              }
              as_user(kAlice, use_shared_memory);
              return is_there(path_of("alices")) || is_there(mark_of("alices")) ? "it is there"
                                                                                : "removed";
          }) == "removed");
}

TEST_CASE("a call looks at a part of /dev/shm, and in the end at all of it", "[ipc][shm][users]") {
    CHECK(in_private_shm([]() -> std::string {
              constexpr int kLinks = 2000;
              OwnerId dead = dead_process();
              auto links = [] {
                  int count = 0;
                  for (int i = 0; i < kLinks; ++i) count += is_there(mark_of(std::to_string(i)));
                  return count;
              };
              for (int i = 0; i < kLinks; ++i) {
                  std::string target = fmt::format("{:x}-{:x}", dead, i + 1);
                  if (::symlink(target.c_str(), mark_of(std::to_string(i)).c_str()) < 0)
                      return "symlink";
              }
              (void)SharedMemory(create_only, 1);
              if (int removed = kLinks - links(); removed == 0 || removed > 500)
                  return fmt::format("one call removed {}", removed);
              for (int i = 0; i < 40; ++i) (void)SharedMemory(create_only, 1);
              if (links() != 0) return fmt::format("40 calls leave {}", links());
              return "bounded";
          }) == "bounded");
}

TEST_CASE("another user's block is opened by who says so", "[ipc][shm][users]") {
    unsigned opener = GENERATE(kAlice, kRoot);
    std::string said = in_private_shm([&] {
        as_user(kMallory, [] { return make_file("trap", 0666), ""; });
        return as_user(opener, [] {
            std::string refused = error_of([] { SharedMemory(open_only, "trap"); });
            std::string either = error_of([] { SharedMemory(open_or_create, "trap", 10); });
            SharedMemory trusted(open_only, "trap", {.any_owner = true});
            return refused + "\n" + either + "\n" + std::to_string(trusted.size());
        });
    });
    CHECK_THAT(said, Catch::Contains("belongs to user 54322") && Catch::Contains(".any_owner") &&
                         Catch::EndsWith("\n4096"));
    CHECK(said.find("belongs to user", said.find('\n')) != std::string::npos);
}

TEST_CASE("a name that another user took is an error that names the user", "[ipc][shm][users]") {
    std::string said = in_private_shm([] {
        as_user(kMallory, [] { return ::symlink("x", mark_of("mine").c_str()), std::string(); });
        return as_user(kAlice, [] {
            return error_of([] { SharedMemory(create_only, "mine", 10); }) + "\n" +
                   error_of([] { SharedMemory(open_or_create, "mine", 10); });
        });
    });
    std::size_t second = said.find('\n');
    CHECK_THAT(said.substr(0, second), Catch::Contains("belongs to user 54322"));
    CHECK_THAT(said.substr(second + 1), Catch::Contains("belongs to user 54322"));
}

TEST_CASE("a block that came by a descriptor is not taken for the one here that has its number",
          "[ipc][shm][users]") {
    std::string said = in_private_shm([]() -> std::string {
        make_file("letters");
        struct stat letters = {}, other = {};
        ::stat("/dev/shm/letters", &letters);
        if (::mount("tmpfs", "/mnt", "tmpfs", 0, "mode=0700") < 0) return "no file system";
        Fd fd;
        for (int i = 0; i < 1000 && other.st_ino != letters.st_ino; ++i) {
            fd = Fd(::open(("/mnt/" + std::to_string(i)).c_str(), O_CREAT | O_RDWR, 0600));
            if (::ftruncate(fd.get(), 4096) < 0 || ::fstat(fd.get(), &other) < 0) return "no file";
        }
        if (other.st_ino != letters.st_ino) return "no file of that number";
        // As a SharedMemory is sent.
        detail::HeapBuffer buffer;
        test::FdCollector fds;
        OutputArchive output(buffer, &fds);
        output(std::string("letters"), true, fds.put(fd.get()));
        std::vector<Fd> sent;
        sent.push_back(std::move(fd));
        test::FdDealer dealer(std::move(sent));
        InputArchive input(buffer.bytes(), &dealer);
        auto memory = detail::make_blank<SharedMemory>();
        input(memory);
        std::string error = error_of([&] { memory.unlink(); });
        return error + (is_there(path_of("letters")) ? ", and it stays" : ", and it is gone");
    });
    CHECK_THAT(said, Catch::Contains("another block has it") && Catch::EndsWith(", and it stays"));
}

TEST_CASE("who opens a block does not wait for ever for one who locks its file",
          "[ipc][shm][users]") {
    CHECK_THAT(in_private_shm([] {
                   make_file("locked");
                   int fd = ::open("/dev/shm/locked", O_RDWR | O_CLOEXEC);
                   ::flock(fd, LOCK_EX);
                   return error_of([] { SharedMemory(open_only, "locked"); });
               }),
               Catch::Contains("keeps /dev/shm/locked locked"));
}

TEST_CASE("who locks the folder keeps names from being removed, and nothing else",
          "[ipc][shm][users]") {
    CHECK(in_private_shm([] {
              test::SharedPage<std::atomic<int>> locked;
              test::Child stranger([&] {
                  if (::setresuid(kMallory, kMallory, kMallory) < 0) return;
                  int folder = ::open("/dev/shm", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                  ::flock(folder, LOCK_EX);
                  *locked = 1;
                  for (;;) pause();
              });
              if (!test::eventually([&] { return *locked == 1; })) return std::string("no lock");
              std::string used = as_user(kAlice, use_shared_memory);
              return used + (is_there(path_of("program")) ? ", and it stays" : "");
          }) == "used");
}

TEST_CASE("links that say anything at all harm nobody", "[ipc][shm][users][scribble]") {
    unsigned seed = Catch::rngSeed() != 0 ? Catch::rngSeed() : std::random_device{}();
    INFO("seed " << seed);
    CHECK(in_private_shm([&]() -> std::string {
              std::minstd_rand random(seed);
              SharedMemory innocent(create_only, "innocent", 100);
              make_file("file");
              for (int round = 0; round < 500; ++round) {
                  // What is said of one's own file and block, too: but not that a dead process made
                  // them, which a process of the same user may say.
                  std::string text(1 + random() % 40, ' ');
                  for (char& c : text) c = "0123456789abcdef-/x.\n"[random() % 21];
                  std::string name = random() % 3 == 0 ? "file" : std::to_string(random() % 9);
                  (void)::unlink(mark_of(name).c_str());
                  if (::symlink(text.c_str(), mark_of(name).c_str()) < 0) return "symlink";
                  if (use_shared_memory() != "used") return "not used";
                  bool there = SharedMemory(open_only, "innocent").size() == 100;
                  if (!there || !is_there(path_of("file"))) return "somebody's file is gone";
              }
              return "fine";
          }) == "fine");
}

TEST_CASE("a folder, a fifo, a link of any kind in the place of a block are refused",
          "[ipc][shm][users]") {
    std::string said = in_private_shm([] {
        ::mkdir("/dev/shm/folder", 0700);
        ::mkfifo("/dev/shm/fifo", 0600);
        (void)!::symlink("/etc/passwd", "/dev/shm/link");
        make_file("wallet");
        ::link("/dev/shm/wallet", "/dev/shm/hard");
        (void)!::symlink("/dev/shm/nowhere", "/dev/shm/dangling");
        std::string all;
        for (const char* name : {"folder", "fifo", "link", "hard", "dangling"})
            all += error_of([&] { SharedMemory(open_only, name); }) + "\n";
        return all;
    });
    CHECK_THAT(said, Catch::Contains("directory") && Catch::Contains("no block of shared memory") &&
                         Catch::Contains("symbolic links") && Catch::Contains("is a hard link"));
    CHECK(std::count(said.begin(), said.end(), '\n') == 5);
    CHECK(said.find("no error") == std::string::npos);
}

TEST_CASE("another user's block is not received in a message; root's is, and a task's argument",
          "[ipc][shm][users]") {
    CHECK(in_private_shm([]() -> std::string {
              as_user(kMallory, [] { return make_file("mallorys"), ""; });
              SharedMemory own(create_only, "roots", 100);
              SharedMemory foreign(open_only, "mallorys", {.any_owner = true});
              auto ends = Pipe();
              Connection& there = ends.second;
              ends.first.send(own);
              ends.first.send(foreign);
              detail::HeapBuffer bytes;
              test::FdCollector fds;
              OutputArchive output(bytes, &fds);
              output(foreign);
              return as_user(kAlice, [&]() -> std::string {
                  if (there.recv<SharedMemory>().size() != 100) return "root's is another";
                  std::string error = error_of([&] { (void)there.recv<SharedMemory>(); });
                  if (error.find(fmt::format("belongs to user {}", kMallory)) == error.npos)
                      return "received: " + error;
                  std::vector<Fd> own_fds;
                  own_fds.push_back(Fd::duplicate_of(fds.fds.at(0)));
                  test::FdDealer dealer(std::move(own_fds));
                  InputArchive arguments(bytes.bytes(), &dealer);
                  arguments.allow_functions();
                  SharedMemory received{detail::Blank{}};
                  arguments(received);
                  return received.size() == 4096 ? "right" : "of another size";
              });
          }) == "right");
}

namespace {

// A link or a file under one of the names, as a process of the same user may leave it.
void scribble_name(std::minstd_rand& random) {
    auto any = [&](auto... choices) {
        std::array<std::string, sizeof...(choices)> all{choices...};
        return all[random() % all.size()];
    };
    auto number = [&] { return fmt::format("{:x}", std::uint64_t(random()) * random()); };
    struct stat status = {};
    std::string name = any("live", "letters", "a", "b");
    (void)::stat(path_of(name).c_str(), &status);
    std::string inode = fmt::format("{:x}", status.st_ino), dead = fmt::format("{:x}", 1u << 30);
    std::string text = any(number(), "-", number() + "-" + number(), number() + "-" + inode,
                           name == "letters" ? dead : dead + "-" + inode, "0-" + number(),
                           std::string(60, 'f'), std::string(300, '-'));
    std::string mark = mark_of(any("", name, name));
    if (mark != mark_of("letters") || text.find(inode) == text.npos) {
        (void)std::filesystem::remove_all(mark);
        if (random() % 8 == 0)
            (void)::mkdir(mark.c_str(), 0700);
        else
            (void)::symlink(text.c_str(), mark.c_str());
    }
    if (name == "live" || name == "letters") return;
    (void)std::filesystem::remove_all(path_of(name));
    switch (random() % 5) {
        case 0:
            return (void)::mkfifo(path_of(name).c_str(), 0600);
        case 1:
            return (void)::mkdir(path_of(name).c_str(), 0700);
        case 2:
            return (void)::symlink(path_of("letters").c_str(), path_of(name).c_str());
        case 3:
            return make_file(name);
    }
}

std::string round_of_names(std::minstd_rand& random) {
    SharedMemory live(create_only, "live", 100);
    live.bytes()[0] = std::byte(7);
    make_file("letters");
    for (int i = 0; i < 12; ++i) {
        scribble_name(random);
        for (const char* name : {"a", "b", "live", "letters"}) {
            (void)error_of([&] { SharedMemory(create_only, name, 100).close(); });
            (void)error_of([&] { SharedMemory(open_only, name).close(); });
        }
        (void)error_of([] { SharedMemory(open_or_create, "c", 100).unlink(); });
        (void)remove_stale_names();
    }
    if (!is_there(path_of("letters"))) return "a file that was no block is gone";
    if (SharedMemory(open_only, "live").bytes()[0] != std::byte(7)) return "a block in use is gone";
    live.unlink();
    for (const auto& entry : std::filesystem::directory_iterator("/dev/shm"))
        (void)std::filesystem::remove_all(entry.path());
    return {};
}

}  // namespace

TEST_CASE("whatever is made of names and links, what is used or no block stays, and nobody hangs",
          "[ipc][shm][users][scribble]") {
    const char* wanted = std::getenv("SCRIBBLE_ROUNDS");
    const int rounds = wanted ? std::atoi(wanted) : 50;
    unsigned seed = Catch::rngSeed() != 0 ? Catch::rngSeed() : std::random_device{}();
    CAPTURE(seed);
    CHECK(in_private_shm([&]() -> std::string {
              for (int i = 0; i < rounds; ++i) {
                  ::alarm(60);  // for each
                  std::minstd_rand random(seed + static_cast<unsigned>(i) * 7919);
                  std::string wrong = round_of_names(random);
                  if (!wrong.empty()) return fmt::format("round {}: {}", i, wrong);
              }
              return "right";
          }) == "right");
}

}  // namespace shared_memory_users_test
