#include <sidestep/subprocess_options.hpp>

#include <algorithm>
#include <csignal>
#include <stdexcept>

namespace sidestep::inline v0::subprocess {

Args::Args(std::initializer_list<Argument> words) {
    words_.reserve(words.size());
    for (const Argument& word : words) words_.push_back(word.str());
}

std::string shell_quote(std::string_view word) {
    constexpr std::string_view kPlain =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-";
    if (!word.empty() && word.find_first_not_of(kPlain) == std::string_view::npos)
        return std::string(word);
    std::string quoted = "'";
    for (char c : word) {
        if (c == '\'')
            quoted += "'\"'\"'";
        else
            quoted += c;
    }
    return quoted += '\'';
}

std::string Args::describe() const {
    if (form_ == Form::string && !words_.empty()) return words_[0];  // empty: moved from
    std::string text;
    for (const std::string& word : words_) {
        if (!text.empty()) text += ' ';
        text += shell_quote(word);
    }
    return text;
}

Environment::Environment(std::initializer_list<std::pair<std::string, std::string>> variables) {
    for (const auto& [name, value] : variables) set(name, value);
}

Environment Environment::extend(
    std::initializer_list<std::pair<std::string, std::string>> variables) {
    Environment environment(variables);
    environment.extends_ = true;
    return environment;
}

Environment& Environment::set(std::string name, std::string value) {
    std::erase_if(changes_, [&](const auto& change) { return change.first == name; });
    changes_.emplace_back(std::move(name), std::move(value));
    return *this;
}

Environment& Environment::remove(std::string name) {
    std::erase_if(changes_, [&](const auto& change) { return change.first == name; });
    if (extends_) changes_.emplace_back(std::move(name), std::nullopt);
    return *this;
}

int Redirect::fd_of(std::FILE* file) {
    int fd = file ? fileno(file) : -1;
    if (fd < 0) throw std::invalid_argument("the FILE* to redirect to has no descriptor");
    return fd;
}

int Redirect::fd_of(const PipeReader& reader) {
    if (reader.buffered() != 0)
        throw std::logic_error(
            "bytes were already read ahead from the pipe that the child shall read: they would be "
            "lost; pass the pipe on before reading from it, or start with bufsize = 0");
    return reader.fd();
}

int Redirect::fd_of(const PipeWriter& writer) { return writer.fd(); }

StopLadder default_stop_ladder() {
    using namespace std::chrono_literals;
    return {{0, 2s}, {SIGTERM, 3s}, {SIGKILL, {}}};
}

}  // namespace sidestep::subprocess
