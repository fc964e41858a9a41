// Rules about locks that the compiler keeps: clang++ with -Wthread-safety. Empty for others.
//
// (https://releases.llvm.org/14.0.0/tools/clang/docs/ThreadSafetyAnalysis.html)
#pragma once

#if defined(__clang__)
#define SIDESTEP_LOCK_RULE(rule) __attribute__((rule))
#else
#define SIDESTEP_LOCK_RULE(rule)
#endif

// Of a class: what can be held, and what holds it while it lives.
#define SIDESTEP_CAPABILITY(kind) SIDESTEP_LOCK_RULE(capability(kind))
#define SIDESTEP_SCOPED_CAPABILITY SIDESTEP_LOCK_RULE(scoped_lockable)
// Of a member: it is read and written only where that is held.
#define SIDESTEP_GUARDED_BY(what) SIDESTEP_LOCK_RULE(guarded_by(what))
// Of a function, behind its parameters: its caller holds that, or must not hold it.
#define SIDESTEP_REQUIRES(...) SIDESTEP_LOCK_RULE(requires_capability(__VA_ARGS__))
#define SIDESTEP_EXCLUDES(...) SIDESTEP_LOCK_RULE(locks_excluded(__VA_ARGS__))
// Of a function: its caller holds that from then on, or no more. Without an argument, of a scoped
// capability: what that holds.
#define SIDESTEP_ACQUIRE(...) SIDESTEP_LOCK_RULE(acquire_capability(__VA_ARGS__))
#define SIDESTEP_RELEASE(...) SIDESTEP_LOCK_RULE(release_capability(__VA_ARGS__))
// Of a function: its body is not looked at. It says why.
#define SIDESTEP_UNCHECKED SIDESTEP_LOCK_RULE(no_thread_safety_analysis)
