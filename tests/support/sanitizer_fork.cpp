// clang++ 14's AddressSanitizer does not hold its locks while a process forks (newer ones do): a
// child of fork(), made while another thread allocated or ended, waited for ever in its first
// thread. Here they are held: by what its own search for leaks takes them with, in that order.
#if defined(__clang__) && __clang_major__ < 17 && defined(__has_feature)
#if __has_feature(address_sanitizer)
#include <pthread.h>

namespace __lsan {  // NOLINT: its names
void LockThreadRegistry();
void UnlockThreadRegistry();
void LockAllocator();
void UnlockAllocator();
}  // namespace __lsan
namespace __sanitizer {  // NOLINT
void StackDepotLockAll();
void StackDepotUnlockAll();
}  // namespace __sanitizer

namespace {

void lock() {
    __lsan::LockThreadRegistry();
    __lsan::LockAllocator();
    __sanitizer::StackDepotLockAll();
}
void unlock() {
    __sanitizer::StackDepotUnlockAll();
    __lsan::UnlockAllocator();
    __lsan::UnlockThreadRegistry();
}
// Before all others, the library's among them: they may allocate.
[[gnu::constructor(101)]] void hold_locks_at_fork() { pthread_atfork(lock, unlock, unlock); }

}  // namespace
#endif
#endif
