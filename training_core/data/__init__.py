"""From files a user has to versioned data sets, their splits and bags, and the arrays learners are fed."""
