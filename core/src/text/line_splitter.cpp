#include "text/line_splitter.hpp"

namespace sidestep::inline v0::subprocess {

void LineSplitter::feed(std::string_view bytes, const detail::Deadline& deadline) {
    if (decoder_)
        decoder_->decode(bytes, rest_);
    else
        rest_ += bytes;
    std::size_t begin = 0;
    for (std::size_t end; (end = rest_.find('\n', begin)) != std::string::npos;) {
        callback_(std::string_view(rest_).substr(begin, end - begin));
        begin = end + 1;
        if (detail::is_over(deadline)) break;
    }
    rest_.erase(0, begin);
}

void LineSplitter::finish() {
    if (decoder_) {
        decoder_->finish(rest_);
        feed_end();
    }
    if (!rest_.empty()) callback_(std::exchange(rest_, {}));
}

void LineSplitter::feed_end() {
    std::size_t end = rest_.find('\n');
    if (end == std::string::npos) return;
    callback_(std::string_view(rest_).substr(0, end));
    rest_.erase(0, end + 1);
}

}  // namespace sidestep::subprocess
