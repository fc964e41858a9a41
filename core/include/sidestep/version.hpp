// The version of these headers, as numbers for #if and as text. Semantic: see CONTRIBUTING.md.
#pragma once

#define SIDESTEP_VERSION_MAJOR 0
#define SIDESTEP_VERSION_MINOR 1
#define SIDESTEP_VERSION_PATCH 0

// For comparisons: #if SIDESTEP_VERSION >= 100 * 100  (1.0.0)
#define SIDESTEP_VERSION \
    (SIDESTEP_VERSION_MAJOR * 10000 + SIDESTEP_VERSION_MINOR * 100 + SIDESTEP_VERSION_PATCH)

// v0, the MAJOR: what was compiled with another one does not link with this library, instead of
// calling it with objects of another shape. Users write sidestep::Pool; a forward declaration of
// one's own needs the header instead.
namespace sidestep::inline v0 {

// That of the headers that a program was compiled with.
inline constexpr const char* kVersion = "0.1.0";

// That of the library that it runs with: another one, where a shared library was replaced.
const char* library_version();

}  // namespace sidestep
