// Why a child could not start, for the exception that its parent throws: the last message on the
// control socket of a child that gives up between its start and the moment when it takes over.
//
// The child keeps a copy of its control socket until then: whoever has the socket when something is
// thrown may be gone with it by the time that it is caught.
#pragma once

#include <optional>
#include <string>

namespace sidestep::inline v0 {

// --- in the child ------------------------------------------------------------------------------

void begin_boot(int control) noexcept;
// It has started: what goes wrong from here on is reported otherwise.
void end_boot() noexcept;
// Nothing is waited for; a text that is too long is cut.
void report_boot_failure(const char* text) noexcept;

// --- in the parent -----------------------------------------------------------------------------

// Takes the message off the socket if it is the next one there. Does not wait. Throws
// std::bad_alloc, and has taken nothing then.
std::optional<std::string> take_boot_failure(int control);

}  // namespace sidestep
